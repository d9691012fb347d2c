"""Where the reasoning of a model that thinks ends, so that a grammar holds for the answer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vgate.config.schema import Model as ModelConfig
from vgate.log import Log

# vLLM's parser of `<think>...</think>` with nothing else to it.
PLAIN_PARSER = "deepseek_r1"
_OPEN, _CLOSE = "<think>", "</think>"

log = Log("vgate.engine.vllm")


def thinks(model: ModelConfig, vllm_config: Any) -> bool:
    """Say whether the model thinks before it answers, as configured or by its chat template."""
    if model.reasoning_parser == "none":
        return False
    from vllm.tokenizers import cached_tokenizer_from_config

    if vllm_config.model_config.skip_tokenizer_init:
        return False
    tokenizer: Any = cached_tokenizer_from_config(vllm_config.model_config)
    vocabulary = tokenizer.get_vocab()
    known = _OPEN in vocabulary and _CLOSE in vocabulary
    if model.reasoning_parser == "auto":
        return known and _OPEN in _chat_template(model, tokenizer)
    if not known:
        log.warning("a grammar will hold from the first token: no token ends the reasoning")
    return known


def _chat_template(model: ModelConfig, tokenizer: Any) -> str:
    if model.chat_template is not None:
        try:
            return Path(model.chat_template).expanduser().read_text(encoding="utf-8")
        except (OSError, RuntimeError, UnicodeDecodeError):
            return ""  # the frontends say so
    template = getattr(tokenizer, "chat_template", None)
    # A model may have several by name.
    return str(template) if template else ""


class ReasoningMarks:
    """The tokens around reasoning, and those that begin and end a turn.

    Args:
        tokenizer: vLLM's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._open = tokenizer.convert_tokens_to_ids(_OPEN)
        self._close = tokenizer.convert_tokens_to_ids(_CLOSE)
        self._borders = frozenset(tokenizer.all_special_ids) - {self._open, self._close}

    def ended(self, prompt: list[int]) -> bool:
        """Say whether the answer begins without reasoning: the prompt's last turn has closed it.

        A model that thinks does so unless told otherwise, so without a mark it has not ended.
        """
        for token in reversed(prompt):
            if token == self._close:
                return True
            if token == self._open or token in self._borders:
                return False
        return False
