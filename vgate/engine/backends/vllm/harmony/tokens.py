"""What a tokenizer makes of gpt-oss's format: its special tokens, and the headers of messages."""

from collections.abc import Collection
from typing import Any, NamedTuple

from vgate.engine.request import RequestError

START, END, MESSAGE = "<|start|>", "<|end|>", "<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
_FINAL = ("<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>")
# The recipient after the channel, as OpenAI documents it, and after the role, as it templates it.
_CALL = (
    "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
    " to=functions.{name}<|channel|>commentary json<|message|>",
)
TO_ASSISTANT = f"{START}assistant"


class HeaderPath(NamedTuple):
    """Tokens that must follow, and the name of the grammar that begins after them.

    It is "" for the final message's, and None for reasoning.
    """

    tokens: tuple[int, ...]
    grammar: str | None


# Where a sequence is before its constraint begins: on paths, of which it may take any; or in its
# reasoning, which has none.
Place = tuple[HeaderPath, ...]
REASONING: Place = ()


class HarmonyTokens:
    """What a model's tokenizer makes of the format; `end` is the token that ends a message."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        ids = {text: tokenizer.convert_tokens_to_ids(text) for text in (START, END, MESSAGE)}
        self.end: int = ids[END]
        added = tokenizer.added_tokens_decoder.items()
        # None of them may stand in reasoning but its end.
        self.special = frozenset(token for token, known in added if known.special)
        self.special |= {*tokenizer.all_special_ids, *ids.values()}
        self._borders = {token: text for text, token in ids.items()}

    def begun(self, prompt: list[int]) -> str:
        """Return the last special token of the prompt that begins or ends a message or its text."""
        return next((self._borders[t] for t in reversed(prompt) if t in self._borders), END)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text with special tokens."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def paths(self, names: Collection[str], before: str = "") -> Place:
        """Return the ways to the constraint, of a call of one of these, or of the final message."""
        headers = [(text.format(name=name), name) for name in names for text in _CALL]
        headers = headers or [(text, "") for text in _FINAL]
        return tuple(HeaderPath(self.encode(before + text), name) for text, name in headers)


def harmony_tokens(vllm_config: Any) -> HarmonyTokens | None:
    """Return the tokens of a model that has those of gpt-oss's format; None of another."""
    if vllm_config.model_config.skip_tokenizer_init:
        return None
    from vllm.tokenizers import cached_tokenizer_from_config

    tokenizer: Any = cached_tokenizer_from_config(vllm_config.model_config)
    vocabulary = tokenizer.get_vocab()
    if not all(token in vocabulary for token in (START, "<|channel|>", MESSAGE, END)):
        return None
    return HarmonyTokens(tokenizer)


def check_harmony(tokens: HarmonyTokens | None) -> HarmonyTokens:
    """Return the tokens.

    Raises:
        RequestError: The model has none, so it can't follow a constraint in this format.
    """
    if tokens is None:
        reason = "the model has not the special tokens of gpt-oss's format"
        raise RequestError("unsupported_parameter", reason, "constraint")
    return tokens
