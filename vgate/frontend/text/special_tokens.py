"""A model's special and added tokens: what its files say of them, as transformers reads it.

A tokenizer.json may lack tokens that the files beside it have, and transformers adds them
(``tokenization_utils_base.py``, ``_from_pretrained``; ``tokenization_utils_tokenizers.py``,
``TokenizersBackend.__init__``).
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer

# transformers' names; templates use them as variables.
_NAMES = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class DeclaredTokens:
    """The tokens that a model's files declare.

    Args:
        config: tokenizer_config.json.
        special: special_tokens_map.json. As added_tokens.json, it only counts if the configuration
            does not list the added tokens itself.
        added: added_tokens.json, which has ids by texts.

    Attributes:
        named: ``bos_token`` and the like, as text.

    Raises:
        Exception: An added token has no text or no id.
    """

    def __init__(
        self, config: dict[str, Any], special: dict[str, Any], added: dict[str, Any]
    ) -> None:
        listed = config.get("added_tokens_decoder")
        fields = config if listed is not None else {**config, **special}
        named = {name: token for name in _NAMES if (token := _token(fields.get(name)))}
        self.named: dict[str, str] = {name: token.content for name, token in named.items()}
        extra = next((fields[name] for name in _EXTRA if fields.get(name)), None)
        others = [_token(value) for value in extra] if isinstance(extra, list) else []
        special_tokens = (token for token in (*named.values(), *others) if token)
        self._special = {token.content: token for token in special_tokens}
        self._replaces = listed is not None
        self._added = {int(n): AddedToken(t, special=t in self._special) for t, n in added.items()}
        if listed is not None:
            self._added = {int(number): self._listed(value) for number, value in listed.items()}

    def _listed(self, value: Any) -> AddedToken:
        if (token := _token(value, special=False)) is None:
            raise ValueError(f"a token must be an object with its content, got {value!r}")
        if token.content in self.named.values():
            token.special = True
        return token

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Add the tokens that a tokenizer lacks, or has with other options."""
        known = tokenizer.get_added_tokens_decoder()
        tokens = {
            token.content: token
            for number, token in sorted(self._added.items())
            if token != known.get(number) and (self._replaces or number not in known)
        }
        texts = tokens.keys() | {token.content for token in known.values()}
        tokens |= {text: token for text, token in self._special.items() if text not in texts}
        if tokens:
            tokenizer.add_tokens([*tokens.values()])


def _token(value: Any, *, special: bool = True) -> AddedToken | None:
    """Return a token that a file gives as text, or as an object with its text and options."""
    if isinstance(value, str):
        return AddedToken(value, special=special)
    if isinstance(value, dict) and isinstance(text := value.get("content"), str):
        flags = {name: bool(value[name]) for name in _FLAGS if name in value}
        return AddedToken(text, **{"special": special, **flags})
    return None
