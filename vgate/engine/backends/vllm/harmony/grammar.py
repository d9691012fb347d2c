"""Constraints in gpt-oss's format: of the final message, or of the arguments of a call.

The model may reason first, in one message on the channel `analysis`. Then it must write the header
of what is constrained. The constraint applies to the text up to the token that ends the answer.
"""

from collections.abc import Collection, Mapping
from typing import Any

from vgate.engine.backends.vllm.exact_grammars import set_bits
from vgate.engine.backends.vllm.harmony.tokens import (
    ANALYSIS,
    END,
    MESSAGE,
    REASONING,
    TO_ASSISTANT,
    HarmonyTokens,
    HeaderPath,
    Place,
)


class InHarmony:
    """Grammars of which one begins after its header; one of vLLM's StructuredOutputGrammars.

    Args:
        grammars: vLLM's, by the name of the function whose arguments they are for; "" for the
            final message.
        tokens: The model's.
        prompt: The prompt.
        stop_token_ids: The tokens that end the sequence.
    """

    def __init__(
        self,
        grammars: Mapping[str, Any],
        tokens: HarmonyTokens,
        prompt: list[int],
        stop_token_ids: Collection[int],
    ) -> None:
        # The one whose text has begun.
        self._grammar: Any = None
        self._grammars = grammars
        self._end = tokens.end
        self._not_in_reasoning = (tokens.special | set(stop_token_ids)) - {tokens.end}
        names = [name for name in grammars if name]
        self._after_reasoning = tokens.paths(names, TO_ASSISTANT)
        begun = tokens.begun(prompt)
        # What the prompt leaves open: a message's text, which may be the final one's; nothing; or a
        # header.
        self._at_once = begun == MESSAGE and not names
        before = {MESSAGE: f"{END}{TO_ASSISTANT}", END: TO_ASSISTANT}.get(begun, "")
        reasoning = HeaderPath(tokens.encode(before + ANALYSIS), None)
        self._first: Place = (reasoning, *tokens.paths(names, before))
        self.reset()

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Advance by some tokens; false if they are not allowed."""
        for count, token in enumerate(tokens):
            if self._grammar is not None:
                self._followed += len(tokens) - count
                return bool(self._grammar.accept_tokens(request_id, tokens[count:]))
            found = self._next(self._places[-1], token)
            if found is None:
                return False
            self._advance(found)
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """Return those of the tokens, from the first, that are allowed."""
        grammar, place = self._grammar, self._places[-1]
        for count, token in enumerate(tokens):
            if grammar is not None:
                return tokens[:count] + list(grammar.validate_tokens(tokens[count:]))
            found = self._next(place, token)
            if found is None:
                return tokens[:count]
            if isinstance(found, str):
                grammar = self._grammars[found]
            else:
                place = found
        return tokens

    def rollback(self, num_tokens: int) -> None:
        """Take back the last tokens."""
        followed = min(num_tokens, self._followed)
        if followed and self._grammar is not None:
            self._followed -= followed
            self._grammar.rollback(followed)
        if num_tokens > followed:
            del self._places[followed - num_tokens :]
            self._grammar = None

    def fill_bitmask(self, bitmask: Any, index: int) -> None:
        """Write the tokens that are allowed next."""
        if self._grammar is not None:
            self._grammar.fill_bitmask(bitmask, index)
            return
        place = self._places[-1]
        if place == REASONING:
            bitmask[index].fill_(-1)
            set_bits(bitmask, index, self._not_in_reasoning, allowed=False)
        else:
            bitmask[index].fill_(0)
            set_bits(bitmask, index, {path.tokens[0] for path in place}, allowed=True)

    def is_terminated(self) -> bool:
        """Whether the sequence has ended."""
        return self._grammar is not None and bool(self._grammar.is_terminated())

    def reset(self) -> None:
        """Go back to the beginning."""
        for grammar in self._grammars.values():
            grammar.reset()
        # The place before each token that comes before the constraint, and after the last.
        self._places: list[Place] = [self._first]
        self._grammar = self._grammars[""] if self._at_once else None
        # Tokens under the constraint.
        self._followed = 0

    def _advance(self, found: Place | str) -> None:
        if isinstance(found, str):
            self._grammar = self._grammars[found]
            found = self._places[-1]
        self._places.append(found)

    def _next(self, place: Place, token: int) -> Place | str | None:
        """Return the place after a token, or the name of the grammar that begins then.

        None if the token is not allowed.
        """
        if place == REASONING:
            if token == self._end:
                return self._after_reasoning
            return None if token in self._not_in_reasoning else REASONING
        taken = [HeaderPath(p.tokens[1:], p.grammar) for p in place if p.tokens[0] == token]
        ended = next((path for path in taken if not path.tokens), None)
        if ended is not None:
            return REASONING if ended.grammar is None else ended.grammar
        return tuple(taken) or None
