"""Where reasoning ends, so that a grammar constrains what follows it, and nothing else does.

vLLM's own gate leaves all tokens free until `</think>`, so a model that never opens its thought, as
adapters and fine-tunes do, would never be constrained.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Literal

from vgate.config.model import Model as ModelConfig
from vgate.engine.backends.vllm.exact_grammars import set_bits
from vgate.log import Log

_OPEN, _CLOSE = "<think>", "</think>"
# The most tokens that spell the mark, but the last.
_SPELLED = len(_CLOSE) - 1

log = Log("vgate.engine.vllm")


def reasoning_marks(model: ModelConfig, vllm_config: Any) -> "ReasoningMarks | None":
    """Return the marks around a model's reasoning.

    None if it generates no text or has no tokens for them, or if the operator has chosen one of
    vLLM's reasoning parsers, which then decides where grammars begin.
    """
    chosen = vllm_config.structured_outputs_config.reasoning_parser
    if model.task != "generate" or chosen or not has_marks(model, vllm_config):
        return None
    from vllm.tokenizers import cached_tokenizer_from_config

    return ReasoningMarks(cached_tokenizer_from_config(vllm_config.model_config))


def has_marks(model: ModelConfig, vllm_config: Any) -> bool:
    """Whether a model that may reason has tokens for the marks around its reasoning."""
    if model.reasoning_parser == "none" or vllm_config.model_config.skip_tokenizer_init:
        return False
    from vllm.tokenizers import cached_tokenizer_from_config

    tokenizer: Any = cached_tokenizer_from_config(vllm_config.model_config)
    vocabulary = tokenizer.get_vocab()
    known = _OPEN in vocabulary and _CLOSE in vocabulary
    if not known and model.reasoning_parser == "think":
        log.warning("grammars apply from the first token: no token marks the end of reasoning")
    return known


class ReasoningMarks:
    """The tokens around reasoning, and those that begin and end a turn."""

    def __init__(self, tokenizer: Any) -> None:
        self.open: int = tokenizer.convert_tokens_to_ids(_OPEN)
        self.close: int = tokenizer.convert_tokens_to_ids(_CLOSE)
        self._borders = frozenset(tokenizer.all_special_ids) - {self.open, self.close}
        self._decode = lru_cache(maxsize=None)(lambda token: str(tokenizer.decode([token])))

    def ended(self, prompt: list[int]) -> bool:
        """Whether the prompt's last turn has closed the reasoning."""
        return self._last(prompt) == self.close

    def begun(self, prompt: list[int]) -> bool:
        """Whether the prompt's last turn has opened the reasoning, and not closed it."""
        return self._last(prompt) == self.open

    def closes(self, tokens: list[int]) -> bool | None:
        """Whether reasoning ends with the last of these tokens, as its readers see it.

        A model may spell the mark instead of using its token. None if more text follows in the
        same token, which can't be taken apart.
        """
        if tokens[-1] == self.close:
            return True
        if ">" not in self._decode(tokens[-1]):
            return False
        text = "".join(map(self._decode, tokens[-len(_CLOSE) :]))
        return text.endswith(_CLOSE) or (None if _CLOSE in text else False)

    def _last(self, prompt: list[int]) -> int | None:
        """Return the last mark in the prompt's last turn."""
        for token in reversed(prompt):
            if token in (self.open, self.close):
                return token
            if token in self._borders:
                return None
        return None


class AfterReasoning:
    """A grammar that begins with the first token that is not reasoning.

    The model may open its reasoning with its first token, or the prompt has opened it. What it
    opened it must close: it can't end before.

    Args:
        grammar: One of vLLM's StructuredOutputGrammars.
        marks: The tokens around reasoning.
        stop_token_ids: The tokens that end the sequence.
        begun: Whether the prompt has opened the reasoning.
    """

    def __init__(
        self, grammar: Any, marks: ReasoningMarks, stop_token_ids: Collection[int], *, begun: bool
    ) -> None:
        self._grammar = grammar
        self._marks = marks
        self._stops = frozenset(stop_token_ids) - {marks.open, marks.close}
        self._first: Literal["undecided", "reasoning"] = "reasoning" if begun else "undecided"
        self._state: Literal["undecided", "reasoning", "grammar"] = self._first
        # The tokens of the reasoning, and how many have followed.
        self._reasoned: list[int] = []
        self._followed = 0

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Advance by some tokens; false if they are not allowed."""
        count, self._state = self._read(tokens)
        self._reasoned += tokens[:count]
        rest = tokens[count:]
        if rest and self._state != "grammar":
            return False
        self._followed += len(rest)
        return not rest or bool(self._grammar.accept_tokens(request_id, rest))

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """Return those of the tokens, from the first, that are allowed."""
        count, state = self._read(tokens)
        rest = self._grammar.validate_tokens(tokens[count:]) if state == "grammar" else []
        return tokens[:count] + rest

    def rollback(self, num_tokens: int) -> None:
        """Take back the last tokens."""
        followed = min(num_tokens, self._followed)
        if followed:
            self._followed -= followed
            self._grammar.rollback(followed)
        if num_tokens > followed:
            del self._reasoned[followed - num_tokens :]
        if num_tokens > followed or not (self._reasoned or self._followed):
            self._state = "reasoning" if self._reasoned else self._first

    def fill_bitmask(self, bitmask: Any, index: int) -> None:
        """Write the tokens that are allowed next."""
        if self._state == "reasoning":
            bitmask[index].fill_(-1)
            set_bits(bitmask, index, self._stops, allowed=False)
            return
        self._grammar.fill_bitmask(bitmask, index)
        if self._state == "undecided":
            set_bits(bitmask, index, (self._marks.open,), allowed=True)

    def is_terminated(self) -> bool:
        """Whether the sequence has ended."""
        return bool(self._grammar.is_terminated())

    def reset(self) -> None:
        """Go back to the beginning."""
        self._grammar.reset()
        self._state, self._reasoned, self._followed = self._first, [], 0

    def _read(self, tokens: list[int]) -> tuple[int, Literal["undecided", "reasoning", "grammar"]]:
        """Return how many of the tokens belong to the reasoning, and the state after them."""
        state = self._state
        for count, token in enumerate(tokens):
            if state == "undecided":
                state = "reasoning" if token == self._marks.open else "grammar"
            elif state == "reasoning":
                closes = self._marks.closes([*self._reasoned[-_SPELLED:], *tokens[: count + 1]])
                if token in self._stops or closes is None:
                    return count, state
                if closes:
                    return count + 1, "grammar"
            if state == "grammar":
                return count, state
        return len(tokens), state
