"""One choice of an answer: from its sequence's tokens to what the model thinks, says and calls.

Tokens become text (`Detokenizer`), of which the reasoning is split off (`ReasoningParser`), what is
left is searched for stop strings (`StopStrings`) and then for tool calls. How the tokens were cut
into steps changes nothing about the outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import ChoiceResult, FinishReason, ToolCall
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.ids import tool_call_id
from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.reasoning import ReasoningParser
from vgate.frontend.text.detokenizer import Detokenizer
from vgate.frontend.text.known_texts import KnownTexts
from vgate.frontend.text.stop_strings import StopStrings
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.messages import Logprobs

# Tokens that the longest mark of a tool call may have: a few for each of its characters.
_MARK_TOKENS = 128


class DecodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of a request's choices are read.

    Attributes:
        texts: What is known of the model's vocabulary.
        skip_special_tokens: Whether the text leaves special tokens out.
        stops, include_stop, min_tokens: Strings that end a choice, whether they belong to it, and
            after how many tokens they are looked for.
        reported_stop_ids: Tokens that are told as the reason when they end a choice.
        reasoning, tools: Make the parsers; None where there is nothing to parse.
        hide_reasoning: The client doesn't want to see it.
        calls_are_stops: A tool call ends a choice with "stop", as OpenAI has it for one that the
            client named.
        new_call_id: Names a tool call.
        keep_token_ids: The client wants to see them.
        prompt_only: The client wants its prompt back and no token more; one is generated
            nevertheless, and thrown away.
    """

    texts: KnownTexts
    skip_special_tokens: bool = True
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    reported_stop_ids: frozenset[int] = frozenset()
    reasoning: Callable[[], ReasoningParser] | None = None
    tools: Callable[[], OutputParser] | None = None
    hide_reasoning: bool = False
    calls_are_stops: bool = False
    new_call_id: Callable[[], str] = tool_call_id
    keep_token_ids: bool = False
    prompt_only: bool = False


class Choice:
    """See the module.

    Args:
        sequence: Where the tokens come.
        prompt: The prompt's token ids.
        decoding: How to read them.
        logprobs: Whether the tokens come with log probabilities.

    Attributes:
        plain: There is nothing to it but text: `take_text` will do.
        watching: Every token must be looked at as it comes, since it may end the choice.
        tokens, reasoning_tokens: Generated so far; with a matched stop string those up to the one
            completing it.
        finish_reason, stop_reason: Set with the end.
        done: Its end was taken note of.
    """

    __slots__ = (
        "_calls",
        "_decoding",
        "_detokenizer",
        "_logprobs",
        "_reasoning",
        "_reasoning_parser",
        "_recent",
        "_stops",
        "_text",
        "_token_ids",
        "_tools",
        "done",
        "finish_reason",
        "plain",
        "reasoning_tokens",
        "sequence",
        "stop_reason",
        "tokens",
        "watching",
    )

    def __init__(
        self,
        sequence: Sequence,
        prompt: list[int],
        decoding: DecodeOptions,
        *,
        logprobs: bool = False,
    ) -> None:
        self.sequence = sequence
        self._decoding = decoding
        self._detokenizer = Detokenizer(
            decoding.texts, prompt, skip_special_tokens=decoding.skip_special_tokens
        )
        self._stops = (
            StopStrings(decoding.stops, include=decoding.include_stop) if decoding.stops else None
        )
        self._reasoning_parser = decoding.reasoning() if decoding.reasoning else None
        self._tools = decoding.tools() if decoding.tools else None
        self.watching = self._stops is not None
        self.plain = not (
            self._reasoning_parser
            or self._tools
            or logprobs
            or decoding.keep_token_ids
            or decoding.prompt_only
        )
        self._text: list[str] = []
        self._reasoning: list[str] = []
        # The first part of each call, and its arguments so far.
        self._calls: list[tuple[ToolCallDelta, list[str]]] = []
        self._logprobs: list[Logprobs] | None = [] if logprobs else None
        self._token_ids: list[int] | None = [] if decoding.keep_token_ids else None
        # Lengths of the last tokens' texts.
        self._recent: deque[int] = deque(maxlen=_MARK_TOKENS)
        self.tokens = self.reasoning_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.done = False

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: the engine has finished, or a stop string was found."""
        stops = self._stops
        return self.sequence.finish_reason is not None or (
            stops is not None and stops.found is not None
        )

    def take_text(self) -> str:
        """Turn what has come into text; sets `finish_reason` with the last of it."""
        sequence = self.sequence
        tokens, sequence.pending = sequence.pending, []
        sequence.generated += tokens
        if self._stops is None and sequence.finish_reason is None:
            self.tokens += len(tokens)
            text = self._detokenizer.feed(tokens)
        else:
            _, text = self._said(tokens)
            if self.ended:
                text += self._released()[1]
                self._note_end(tokens)
        if text:
            self._text.append(text)
        return text

    def take(self) -> ChoiceDelta | None:
        """Turn what has come into a piece, or None if there is nothing to show.

        Sets `finish_reason` with the last of it.
        """
        sequence = self.sequence
        tokens, sequence.pending = sequence.pending, []
        sequence.generated += tokens
        logprobs, sequence.logprobs = sequence.logprobs, []
        if self._decoding.prompt_only:
            self._note_end(tokens)
            return None
        before = self.tokens
        reasoning, text = self._said(tokens)
        if self.ended:
            more_reasoning, more_text = self._released()
            reasoning, text = reasoning + more_reasoning, text + more_text
        parts: tuple[ToolCallDelta, ...] = ()
        if self._tools is not None:
            parsed = self._tools.feed(text)
            text, deltas = parsed.content, parsed.tool_calls
            if self.ended:
                parsed = self._tools.finish()
                text, deltas = text + parsed.content, deltas + parsed.tool_calls
            parts = tuple(map(self._take_call, deltas))
        if self.ended:
            self._note_end(tokens)
        counted = self.tokens - before
        return self._piece(reasoning, text, parts, tokens[:counted], logprobs[:counted])

    def finished(self) -> ChoiceResult:
        """Return all of it, at its end."""
        return ChoiceResult(
            "".join(self._text),
            self.finish_reason or "stop",
            "".join(self._reasoning),
            [
                ToolCall(first.id or "", first.name or "", "".join(arguments))
                for first, arguments in self._calls
            ],
            self.stop_reason,
            self._logprobs,
            self._token_ids,
            self.sequence.prompt_logprobs,
        )

    def _said(self, tokens: list[int]) -> tuple[str, str]:
        """Return the reasoning and the rest of some tokens' text, up to a stop string."""
        detokenizer, stops = self._detokenizer, self._stops
        ends_at = len(tokens)
        if self.sequence.finish_reason == "stop" and not self._decoding.include_stop:
            # The engine stopped at a stop token: it counts, and it isn't text.
            ends_at -= 1
        if stops is None and self._reasoning_parser is None:
            alone = self.tokens == 0 and self.sequence.finish_reason is not None
            self.tokens += len(tokens)
            take = detokenizer.whole if alone else detokenizer.feed
            return "", take(tokens[:ends_at])
        reasoning, text = [], []
        for position, token in enumerate(tokens):
            if stops is not None and stops.found:
                break
            self.tokens += 1
            piece = detokenizer.text_of(token) if position < ends_at else ""
            if self._reasoning_parser is not None:
                thought, piece = self._split(piece)
                reasoning.append(thought)
            if stops is not None:
                piece = stops.feed(piece, armed=self.tokens > self._decoding.min_tokens)
            text.append(piece)
        return "".join(reasoning), "".join(text)

    def _split(self, piece: str) -> tuple[str, str]:
        """Split a token's text into reasoning and the rest, and count it."""
        parser = self._reasoning_parser
        assert parser is not None
        inside = parser.in_reasoning
        parsed = parser.feed(piece)
        if inside or parser.in_reasoning or parsed.reasoning:
            self._recent.append(len(piece))
            self.reasoning_tokens = self.tokens
            if parsed.content:
                # What has ended the reasoning is content, and took tokens that looked like more.
                self.reasoning_tokens -= self._recent_tokens_of(parsed.content)
        return parsed.reasoning, parsed.content

    def _recent_tokens_of(self, content: str) -> int:
        """Return how many of the last tokens are nothing but the content that they end with."""
        left = len(content)
        count = 0
        for size in reversed(self._recent):
            left -= size
            if left < 0:
                break
            count += 1
            if left == 0:
                break
        return count

    def _released(self) -> tuple[str, str]:
        """Return the reasoning and the text that were held back, at the end."""
        reasoning = text = ""
        stops = self._stops
        if stops is not None and stops.found:
            return "", ""
        if self._reasoning_parser is not None:
            parsed = self._reasoning_parser.finish()
            reasoning, text = parsed.reasoning, parsed.content
        if stops is not None:
            text = stops.feed(text, armed=self.tokens > self._decoding.min_tokens)
            text += stops.finish()
        return reasoning, text

    def _note_end(self, tokens: list[int]) -> None:
        """Set why it ended, if it has; `tokens` are its last."""
        stops, reason = self._stops, self.sequence.finish_reason
        if stops is not None and stops.found:
            self.finish_reason, self.stop_reason = "stop", stops.found
        elif self._decoding.prompt_only and reason is not None:
            self.finish_reason = "length"
        elif reason is not None:
            self.finish_reason = reason
            if reason == "stop" and tokens and tokens[-1] in self._decoding.reported_stop_ids:
                self.stop_reason = tokens[-1]
        if self._calls and self.finish_reason == "stop" and not self._decoding.calls_are_stops:
            self.finish_reason = "tool_calls"

    def _take_call(self, delta: ToolCallDelta) -> ToolCallDelta:
        """Keep a part of a tool call; the first gets the call's id."""
        if delta.name is not None:
            delta = msgspec.structs.replace(delta, id=self._decoding.new_call_id())
            self._calls.append((delta, []))
        self._calls[delta.index][1].append(delta.arguments)
        return delta

    def _piece(
        self,
        reasoning: str,
        text: str,
        parts: tuple[ToolCallDelta, ...],
        tokens: list[int],
        logprobs: list[Logprobs],
    ) -> ChoiceDelta | None:
        """Keep what came, and return what of it is to be shown."""
        if self._decoding.hide_reasoning:
            reasoning = ""
        if reasoning:
            self._reasoning.append(reasoning)
        if text:
            self._text.append(text)
        if self._logprobs is not None:
            self._logprobs += logprobs
        if self._token_ids is not None:
            self._token_ids += tokens
        shown_logprobs = logprobs if self._logprobs is not None else None
        shown_tokens = tokens if self._token_ids is not None else None
        if not (reasoning or text or parts or shown_logprobs or shown_tokens):
            return None
        return ChoiceDelta(text, reasoning, parts, shown_logprobs, shown_tokens)
