"""One choice of an answer: from its sequence's tokens to reasoning, content and tool calls.

Tokens become text (`Detokenizer`); the reasoning is split off (`ReasoningParser`); the rest is
searched for stop strings (`StopStrings`), then for tool calls. For gpt-oss one parser splits off
both before the search. The result does not depend on how the tokens were divided into steps.
"""

import time
from bisect import bisect_left
from collections import deque
from itertools import accumulate, compress

import msgspec

from vgate.frontend.answers.decode_options import DecodeOptions
from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import ChoiceResult, FinishReason, ToolCall
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.parsing import HarmonyParser, Parsed, ReasoningParser, is_json_object
from vgate.frontend.text import Detokenizer, StopStrings
from vgate.frontend.tool_calls import ToolCallDelta, merged
from vgate.wire.logprobs import Logprobs

# The most tokens of a tool call's marker: a few for each of its characters.
_MARKER_TOKENS = 128


class Choice:
    """One choice of an answer.

    Args:
        sequence: Where the tokens arrive.
        prompt: The prompt's token ids.
        decoding: How to read the tokens.
        logprobs: Whether the tokens come with log probabilities.

    Attributes:
        plain: The output is text and nothing else, so `take_text` is enough.
        watching: Each token must be read at once, since it may end the choice.
        tokens, reasoning_tokens: Generated so far; after a stop string, up to the token that
            completed it.
        calls_began_at: When the first tool call was read, in `time.monotonic` seconds.
        finish_reason, stop_reason: Set at the end.
        done: Set by the answer when it has seen the end, and while it must not read the sequence.
    """

    __slots__ = (
        "_calls",
        "_decoding",
        "_detokenizer",
        "_harmony",
        "_logprobs",
        "_reasoning",
        "_reasoning_parser",
        "_recent",
        "_shown",
        "_stops",
        "_text",
        "_token_ids",
        "_tools",
        "calls_began_at",
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
        self._harmony = decoding.harmony() if decoding.harmony else None
        self.watching = self._stops is not None
        byte_level = decoding.texts.tokenizer.byte_level
        parsed = decoding.reasoning is not None or decoding.harmony is not None
        sequence.by_token = self.watching or parsed or logprobs or not byte_level
        self.plain = not (
            self._reasoning_parser
            or self._tools
            or self._harmony
            or logprobs
            or decoding.keep_token_ids
            or decoding.prompt_only
        )
        self._text: list[str] = []
        self._reasoning: list[str] = []
        # The first delta of each call, and its arguments so far.
        self._calls: list[tuple[ToolCallDelta, list[str]]] = []
        self.calls_began_at: float | None = None
        self._logprobs: list[Logprobs] | None = [] if logprobs else None
        self._token_ids: list[int] | None = [] if decoding.keep_token_ids else None
        # Which of the tokens that were decoded last are content, in gpt-oss's format.
        self._shown: list[bool] = []
        # Lengths of the last tokens' texts, while there may be reasoning.
        self._recent: deque[int] | None = None
        if self._reasoning_parser is not None:
            self._recent = deque(maxlen=_MARKER_TOKENS)
        self.tokens = self.reasoning_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.done = False

    @property
    def _ended(self) -> bool:
        """Whether the engine has finished, or a stop string was found."""
        stops = self._stops
        return self.sequence.finish_reason is not None or (
            stops is not None and stops.found is not None
        )

    @property
    def _cut(self) -> bool:
        """Whether something other than the model's own end of turn ended the choice."""
        stop = self.stop_reason
        return self.finish_reason == "length" or stop not in (None, *self._decoding.marks)

    @property
    def called(self) -> list[str]:
        """Names of the tools that were called so far."""
        return [first.name or "" for first, _ in self._calls]

    def take_text(self) -> str:
        """Turn new tokens into text; the last of them set `finish_reason`."""
        sequence = self.sequence
        tokens, sequence.pending = sequence.pending, []
        sequence.generated += tokens
        if self._stops is None and sequence.finish_reason is None:
            self.tokens += len(tokens)
            text = self._detokenizer.feed(tokens)
        else:
            text = self._decode(tokens).content
            if self._ended:
                self._note_end(tokens)
        if text:
            self._text.append(text)
        return text

    def take(self) -> ChoiceDelta | None:
        """Turn new tokens into a delta, None if it is empty; the last set `finish_reason`."""
        sequence = self.sequence
        tokens, sequence.pending = sequence.pending, []
        sequence.generated += tokens
        logprobs, sequence.logprobs = sequence.logprobs, []
        if self._decoding.prompt_only:
            self._note_end(tokens)
            return None
        before = self.tokens
        text, reasoning, deltas = self._decode(tokens)
        ended = self._ended
        if ended:
            self._note_end(tokens)
        if self._tools is not None:
            text, _, deltas = self._tools.feed(text)
            if ended:
                parsed = self._tools.finish()
                if not (self._decoding.calls_only and self._cut):
                    text += parsed.content
                deltas += parsed.tool_calls
        parts = tuple(map(self._keep_call, deltas))
        if ended:
            self._note_calls()
        counted = self.tokens - before
        logprobs = logprobs[:counted]
        if self._harmony is not None:
            logprobs = list(compress(logprobs, self._shown))
        return self._keep(reasoning, text, parts, tokens[:counted], logprobs)

    def result(self) -> ChoiceResult:
        """Return the complete choice."""
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

    def close(self) -> None:
        """Break the reference cycles of the parsers. No tokens may be taken after it."""
        for parser in (self._reasoning_parser, self._tools, self._harmony):
            if parser is not None:
                parser.close()

    def _decode(self, tokens: list[int]) -> Parsed:
        """Return what new tokens are, with the text up to a stop string."""
        detokenizer, stops, marks = self._detokenizer, self._stops, self._decoding.marks
        parser = self._harmony or self._reasoning_parser
        finished = self.sequence.finish_reason is not None
        ends_at = len(tokens)
        if self.sequence.finish_reason == "stop" and not self._decoding.include_stop:
            # The stop token at which the engine stopped counts, but it isn't text.
            ends_at -= 1
        if stops is None and parser is None:
            at_once = finished and self.tokens == 0
            self.tokens += len(tokens)
            take = detokenizer.feed_all if at_once else detokenizer.feed
            return Parsed(take(tokens[:ends_at]))
        reasoning, text = [], []
        calls: list[ToolCallDelta] = []
        self._shown.clear()
        for position, token in enumerate(tokens):
            if stops is not None and stops.found:
                break
            self.tokens += 1
            piece = detokenizer.feed_token(token) if position < ends_at else ""
            if self._harmony is not None:
                piece, thought, parts = self._hear(self._harmony, piece, marks.get(token, ""))
                reasoning.append(thought)
                calls += parts
            elif self._reasoning_parser is not None:
                thought, piece = self._split_reasoning(self._reasoning_parser, piece)
                reasoning.append(thought)
            if stops is not None:
                piece = stops.feed(piece, armed=self.tokens > self._decoding.min_tokens)
            text.append(piece)
        if finished and not (stops is not None and stops.found):
            # The end releases the text that was held back.
            piece = ""
            if parser is not None:
                piece, thought, parts = parser.finish()
                reasoning.append(thought)
                calls += parts
            if stops is not None:
                piece = stops.feed(piece, armed=self.tokens > self._decoding.min_tokens)
                piece += stops.finish()
            text.append(piece)
        return Parsed("".join(text), "".join(reasoning), merged(calls))

    def _hear(self, parser: HarmonyParser, piece: str, mark: str) -> Parsed:
        """Return what a token is whose text is `piece`, or which is the mark, and count it."""
        parsed = parser.feed(mark or piece)
        self.reasoning_tokens += parser.in_reasoning and not mark
        self._shown.append(parser.in_content and not mark)
        return parsed

    def _split_reasoning(self, parser: ReasoningParser, piece: str) -> tuple[str, str]:
        """Split a token's text into reasoning and the rest, and count the token."""
        inside, recent = parser.in_reasoning, self._recent
        assert recent is not None
        parsed = parser.feed(piece)
        if inside or parser.in_reasoning or parsed.reasoning:
            recent.append(len(piece))
            self.reasoning_tokens = self.tokens
            if parsed.content:
                # The marker that ended the reasoning is content. Its tokens, the last ones, were
                # counted as reasoning while it was incomplete.
                ends = list(accumulate(reversed(recent)))
                size = len(parsed.content)
                self.reasoning_tokens -= bisect_left(ends, size) + (size in ends)
        return parsed.reasoning, parsed.content

    def _note_end(self, tokens: list[int]) -> None:
        """Set the finish reason, if there is one; `tokens` are the last."""
        stops, reason = self._stops, self.sequence.finish_reason
        if stops is not None and stops.found:
            self.finish_reason, self.stop_reason = "stop", stops.found
        elif self._decoding.prompt_only and reason is not None:
            self.finish_reason = "length"
        elif reason is not None:
            self.finish_reason = reason
            if reason == "stop" and tokens and tokens[-1] in self._decoding.reported_stop_ids:
                self.stop_reason = tokens[-1]

    def _note_calls(self) -> None:
        """Let calls be the reason that the choice finished, unless the last one was cut off."""
        if (
            self._calls
            and self.finish_reason == "stop"
            and not self._decoding.calls_are_stops
            and not (self._cut and not is_json_object("".join(self._calls[-1][1])))
        ):
            self.finish_reason = "tool_calls"

    def _keep_call(self, delta: ToolCallDelta) -> ToolCallDelta:
        """Keep a tool call's delta and return it; the first one gets the call's id."""
        if delta.name is not None:
            if self.calls_began_at is None:
                self.calls_began_at = time.monotonic()
            delta = msgspec.structs.replace(delta, id=self._decoding.new_call_id())
            self._calls.append((delta, []))
        self._calls[delta.index][1].append(delta.arguments)
        return delta

    def _keep(
        self,
        reasoning: str,
        text: str,
        parts: tuple[ToolCallDelta, ...],
        tokens: list[int],
        logprobs: list[Logprobs],
    ) -> ChoiceDelta | None:
        """Keep new output, and return the part that the client wants."""
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
        sent_logprobs = logprobs if self._logprobs is not None else None
        sent_tokens = tokens if self._token_ids is not None else None
        if not (reasoning or text or parts or sent_logprobs or sent_tokens):
            return None
        return ChoiceDelta(text, reasoning, parts, sent_logprobs, sent_tokens)
