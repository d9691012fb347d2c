"""What a frontend needs of a model to make token ids of messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, decoders, models

from vgate.config.schema import Model as ModelConfig
from vgate.frontend.chat_template import ChatTemplate, TemplateSyntaxError
from vgate.wire import dry_run_vocabulary
from vgate.wire.messages import ModelInfo
from vgate.wire.sampling import DEFAULTS, SamplingParams

# Defaults that a model's authors may set in generation_config.json.
_GENERATION_CONFIG_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")


class TextModelError(Exception):
    """The model's text files can't be used; the message names the file."""


class TextModel:
    """A served model, ready to render and tokenise.

    Attributes:
        info: What the engine told of it.
        tokenizer: Its tokenizer; thread-safe.
        template: Its chat template; None if it has none.
        defaults: Its sampling defaults, complete.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        defaults: SamplingParams,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.template = template
        self.defaults = defaults

    def encode_plain(self, texts: list[str]) -> list[list[int]]:
        """Tokenise texts with the special tokens that the model expects around them."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=True)
        return [encoding.ids for encoding in encodings]

    def encode(self, text: str) -> list[int]:
        """Tokenise rendered text; the template has written all special tokens itself."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def load_text_model(info: ModelInfo, config: ModelConfig) -> TextModel:
    """Load a model's text files. Takes up to a second for a large vocabulary.

    Raises:
        TextModelError: A file is missing or not valid.
    """
    if info.directory is None:
        built_in = ChatTemplate(dry_run_vocabulary.CHAT_TEMPLATE, {})
        return TextModel(info, _dry_run_tokenizer(), built_in, DEFAULTS)
    directory = Path(info.directory)
    path = directory / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        message = f"cannot read {path}: {error}"
        raise TextModelError(message) from error
    # A truncation or padding that the file asks for is meant for training.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer_config = _read_json(directory / "tokenizer_config.json")
    template = _load_template(directory, tokenizer_config, config.chat_template)
    return TextModel(info, tokenizer, template, _load_defaults(directory, config))


def _dry_run_tokenizer() -> Tokenizer:
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(dry_run_vocabulary.BYTE_TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in dry_run_vocabulary.MARKERS]
    )
    return tokenizer


def _load_template(
    directory: Path, tokenizer_config: dict[str, Any], override: str | None
) -> ChatTemplate | None:
    source, name = _template_source(directory, tokenizer_config, override)
    if source is None:
        return None
    special_tokens = {
        token: text
        for token in _SPECIAL_TOKEN_NAMES
        if (text := _token_text(tokenizer_config.get(token))) is not None
    }
    try:
        return ChatTemplate(source, special_tokens)
    except TemplateSyntaxError as error:
        message = f"the chat template in {name} is not valid: {error}"
        raise TextModelError(message) from error


def _template_source(
    directory: Path, tokenizer_config: dict[str, Any], override: str | None
) -> tuple[str | None, str]:
    """Return the template and where it is from; a file of its own comes before the config."""
    path = Path(override) if override else directory / "chat_template.jinja"
    if override or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot read the chat template {path}: {error}"
            raise TextModelError(message) from error
    path = directory / "tokenizer_config.json"
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        # Several by name: [{"name": "default", "template": ...}, {"name": "tool_use", ...}].
        try:
            by_name = {entry["name"]: entry["template"] for entry in template}
        except (KeyError, TypeError):
            message = f"{path}: chat_template must be text or a list of names and templates"
            raise TextModelError(message) from None
        template = by_name.get("default")
    if template is not None and not isinstance(template, str):
        message = f"{path}: chat_template must be text, not {type(template).__name__}"
        raise TextModelError(message)
    return template, str(path)


def _token_text(token: Any) -> str | None:
    """Special tokens are written as text or as {"content": text, ...}."""
    return token.get("content") if isinstance(token, dict) else token


def _load_defaults(directory: Path, config: ModelConfig) -> SamplingParams:
    if config.generation_config == "vllm":
        return DEFAULTS
    path = directory / "generation_config.json"
    document = _read_json(path)
    chosen = {
        name: document[name] for name in _GENERATION_CONFIG_FIELDS if document.get(name) is not None
    }
    try:
        return msgspec.convert(chosen, SamplingParams).over(DEFAULTS)
    except msgspec.ValidationError as error:
        message = f"{path}: {error}"
        raise TextModelError(message) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}"
        raise TextModelError(message) from error
    return document if isinstance(document, dict) else {}
