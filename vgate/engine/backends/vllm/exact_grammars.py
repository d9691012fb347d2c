"""Grammars that are followed to the letter: JSON schemas and regular expressions, by llguidance.

xgrammar, which vLLM uses for the rest, lets unescaped control characters and quotes into strings
with a length or a pattern, drops look-aheads, and compiles for longer: see the tests.
"""

import json
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import msgspec

from vgate.engine.backends.json_schema import (
    MalformedError,
    UnsupportedError,
    translated,
    whole,
)
from vgate.engine.request import RequestError
from vgate.wire.parameters import StructuredOutput

KINDS = frozenset({"json", "json_object", "regex"})
# llguidance's words for a grammar without texts.
_UNSATISFIABLE = ("Unsatisfiable schema", "NoExtension")


def exact_grammars(vllm_config: Any) -> "ExactGrammars | None":
    """Return what compiles a model's grammars.

    None if the operator has chosen another backend than xgrammar for vLLM's grammars, or if there
    is no llguidance for this machine or for the model's tokenizer.
    """
    settings, model = vllm_config.structured_outputs_config, vllm_config.model_config
    if settings.backend != "xgrammar" or model.skip_tokenizer_init or not find_spec("llguidance"):
        return None
    from transformers import PreTrainedTokenizerFast
    from vllm.tokenizers import cached_tokenizer_from_config

    tokenizer: Any = cached_tokenizer_from_config(model)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    return ExactGrammars(tokenizer, model.get_vocab_size(), compact=settings.disable_any_whitespace)


class ExactGrammars:
    """Compiles grammars of these kinds for one model.

    Args:
        tokenizer: The model's, as vLLM has it.
        vocab_size: The model's, of which each mask has a bit a token.
        compact: Whether JSON has no whitespace between its parts.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, *, compact: bool) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, len(tokenizer))
        self._compact = compact
        self._made: Any = None

    def compile(self, structured: StructuredOutput) -> Any:
        """Return the llguidance matcher of a constraint.

        Raises:
            RequestError: It is malformed, can't be followed, or nothing satisfies it.
        """
        import llguidance
        import llguidance.hf

        if self._made is None:
            # Takes about a second for a large vocabulary.
            self._made = llguidance.hf.from_tokenizer(self._tokenizer, self._vocab_size)
        try:
            grammar = self._source(llguidance.LLMatcher, structured)
        except MalformedError as error:
            raise RequestError("invalid_value", str(error), "constraint") from None
        except UnsupportedError as error:
            what = "a schema's" if structured.kind == "json" else "a regular expression with"
            reason = f"{what} {error} is not supported"
            raise RequestError("unsupported_parameter", reason, "constraint") from None
        matcher = llguidance.LLMatcher(self._made, grammar, log_level=0)
        if not matcher.is_error():
            # Finds out whether there is a first token, and takes longer than later masks.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise RequestError("invalid_value", _problem(matcher.get_error()), "constraint")
        return matcher

    def _source(self, matcher: Any, structured: StructuredOutput) -> Any:
        if structured.kind == "regex":
            return matcher.grammar_from_regex(whole(str(structured.value)))
        schema: Any = {"type": "object"}
        if structured.kind == "json":
            try:
                schema = json.loads(str(structured.value))
            except (ValueError, RecursionError):
                raise MalformedError("the schema is not JSON") from None
            schema = translated(schema)
        return matcher.grammar_from_json_schema(
            msgspec.json.encode(schema).decode(),
            overrides={"whitespace_flexible": not self._compact, "lenient": False},
        )


def _problem(error: str) -> str:
    first = error.partition("\n")[0]
    return (
        "nothing satisfies it"
        if first.startswith(_UNSATISFIABLE)
        else f"is not usable: {first[:200]}"
    )


class ExactGrammar:
    """A sequence's place in a grammar; one of vLLM's StructuredOutputGrammars.

    Args:
        matcher: llguidance's.
        stop_token_ids: The tokens that end the sequence; allowed where the grammar may end, and
            nowhere else.
    """

    def __init__(self, matcher: Any, stop_token_ids: Collection[int]) -> None:
        self._matcher = matcher
        self._stops = frozenset(stop_token_ids)
        self._terminated = False

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Advance by some tokens; false if the grammar does not allow them."""
        for token in tokens:
            if self._terminated:
                return True
            if token in self._stops:
                self._terminated = self._may_end()
                if not self._terminated:
                    return False
            elif self._matcher.is_stopped() or not self._matcher.consume_token(token):
                return False
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """Return those of the tokens, from the first, that the grammar allows."""
        if self._terminated:
            return []
        end = next((at for at, token in enumerate(tokens) if token in self._stops), len(tokens))
        count: int = self._matcher.validate_tokens(tokens[:end]) if end else 0
        if count == end < len(tokens):
            self._matcher.consume_tokens(tokens[:end])
            count += self._may_end()
            self._matcher.rollback(end)
        return tokens[:count]

    def rollback(self, num_tokens: int) -> None:
        """Take back the last tokens."""
        if num_tokens and self._terminated:
            self._terminated = False
            num_tokens -= 1
        if num_tokens:
            self._matcher.rollback(num_tokens)

    def fill_bitmask(self, bitmask: Any, index: int) -> None:
        """Write the tokens that are allowed next."""
        row = bitmask[index]
        self._matcher.unsafe_compute_mask_ptr(row.data_ptr(), row.numel() * row.element_size())
        set_bits(bitmask, index, self._stops, allowed=self._may_end())

    def is_terminated(self) -> bool:
        """Whether the sequence has ended."""
        return self._terminated

    def reset(self) -> None:
        """Go back to the beginning."""
        self._matcher.reset()
        self._terminated = False

    def _may_end(self) -> bool:
        matcher = self._matcher
        return bool(matcher.is_accepting()) and not matcher.is_error()


def set_bits(bitmask: Any, index: int, tokens: Collection[int], *, allowed: bool) -> None:
    """Allow or forbid some tokens in one row of vLLM's masks, whose words have 32 bits."""
    words = bitmask[index].numpy().view("uint32")
    for token in tokens:
        bit = 1 << (token & 31)
        if allowed:
            words[token >> 5] |= bit
        else:
            words[token >> 5] &= ~bit & 0xFFFFFFFF
