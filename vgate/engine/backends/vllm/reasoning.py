"""Where reasoning ends, so that a grammar constrains only what follows it."""

from typing import Any

from vgate.config.schema import Model as ModelConfig
from vgate.log import Log

# vLLM's parser for plain `<think>...</think>`.
PLAIN_PARSER = "deepseek_r1"
_OPEN, _CLOSE = "<think>", "</think>"

log = Log("vgate.engine.vllm")


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
        self._open = tokenizer.convert_tokens_to_ids(_OPEN)
        self._close = tokenizer.convert_tokens_to_ids(_CLOSE)
        self._borders = frozenset(tokenizer.all_special_ids) - {self._open, self._close}

    def ended(self, prompt: list[int]) -> bool:
        """Whether the prompt's last turn has closed the reasoning.

        Without a mark in that turn it has not: a model that reasons does so unless prevented.
        """
        for token in reversed(prompt):
            if token == self._close:
                return True
            if token == self._open or token in self._borders:
                return False
        return False
