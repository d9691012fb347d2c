"""A model's text side: its tokenizer, chat template and sampling defaults."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import msgspec

from vgate.config.schema import Model as ModelConfig
from vgate.errors import InvalidValueError
from vgate.frontend.parsing.detect import detect_reasoning, detect_tool_parser
from vgate.frontend.text.decode import TokenTexts
from vgate.frontend.text.library_tokenizer import LibraryTokenizer
from vgate.frontend.text.template import ChatTemplate, TemplateSyntaxError
from vgate.frontend.text.tokenizer import Tokenizer
from vgate.frontend.text.tokenizer_file import read_tokenizer
from vgate.wire import model_files
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import ModelFiles
from vgate.wire.sampling import DEFAULTS, SamplingParams

# Defaults that a model's authors may set in generation_config.json.
_GENERATION_CONFIG_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_TEMPLATE_FILES = {"default": model_files.TEMPLATE, "tool_use": model_files.TOOL_TEMPLATE}
_SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")


class TextModelError(Exception):
    """The model's text files can't be used; the message names the file."""


class TextModel:
    """A served model, ready to render and tokenise.

    Attributes:
        info: The engine's description of it.
        tokenizer: Its tokenizer.
        template: Its chat template; None if it has none.
        tool_template: Its chat template for requests with tools; most often the same.
        special_tokens: ``bos_token`` and the like, as text, for templates that clients send.
        defaults: Its sampling defaults, complete.
        tool_parser: How it writes tool calls; None if that isn't known.
        reasons: Whether it writes reasoning between marks.
        token_texts: The texts of its tokens.
        end: The token that the tokenizer's files call the end of a text, if they do.
        other_ends: Further tokens that end an answer, by the model's generation_config.json.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        defaults: SamplingParams,
        tool_template: ChatTemplate | None = None,
        special_tokens: dict[str, str] | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.template = template
        self.defaults = defaults
        self.tool_template = tool_template or template
        self.special_tokens = special_tokens or {}
        self.tool_parser: str | None = None
        self.reasons = False
        self.token_texts = TokenTexts(tokenizer)
        end = self.special_tokens.get("eos_token")
        self.end = None if end is None else tokenizer.token_to_id(end)
        self.other_ends = ends - {self.end}

    def encode(self, text: str) -> list[int]:
        """Tokenise rendered text; the template has written all special tokens itself."""
        return self.tokenizer.encode(text)

    def check_token_ids(self, tokens: list[int], param: str) -> None:
        """Refuse ids that the model has no embedding for; some engines would die of one.

        Models often have more embeddings than their tokenizer has tokens, so the engine's number
        counts; without one, the tokenizer's vocabulary does.

        Raises:
            InvalidValueError: Names the place of the first such id in `param`.
        """
        size = self.info.vocab_size or self.tokenizer.vocab_size
        if not tokens or max(tokens) < size:
            return
        for index, token in enumerate(tokens):
            if token < size:
                continue
            # Ids of added tokens may have gaps, and then be above the number of tokens.
            if not self.info.vocab_size and self.tokenizer.id_to_token(token) is not None:
                continue
            where = f"{param}[{index}]"
            message = f"`{where}` must be a token id of the model, 0 to {size - 1}, got {token}"
            raise InvalidValueError(message, param=where)

    def encode_bad_words(self, words: list[str]) -> list[list[int]]:
        """Tokenise words that are never to be generated, as vLLM does.

        Where a word begins a text and where it follows a space it is most often a different token;
        both are taken if the latter is as long as the former.
        """
        sequences = []
        for word in words:
            at_start = self.encode(word.lstrip())
            after_space = self.encode(f" {word.lstrip()}")
            if at_start:
                sequences.append(at_start)
                if len(after_space) == len(at_start) and after_space[0] != at_start[0]:
                    sequences.append(after_space)
        return sequences


def load_text_model(info: ModelInfo, config: ModelConfig, files: ModelFiles) -> TextModel:
    """Make a model's text side of its files. Takes up to a second for a large vocabulary.

    Args:
        info: The engine's description of the model.
        config: Its section of the configuration.
        files: Its text files. The tokenizer's is taken out, so that it can be freed: it is as large
            as the tokenizer.

    Raises:
        TextModelError: A file is missing or not valid.
    """
    # Memory that the process has freed makes room for the peak.
    _give_memory_back()
    text = _text_model(info, config, files)
    tools, plain = text.tool_template, text.template
    text.tool_parser = None if config.tool_parser == "none" else config.tool_parser
    if config.tool_parser == "auto":
        text.tool_parser = detect_tool_parser(tools.source) if tools else None
    text.reasons = config.reasoning_parser == "think"
    if config.reasoning_parser == "auto":
        text.reasons = plain is not None and detect_reasoning(plain.source)
    _give_memory_back()
    return text


def _give_memory_back() -> None:
    """Return freed memory to the system.

    glibc keeps it otherwise: 55 of 120 MB in a process that has read 150,000 tokens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _text_model(info: ModelInfo, config: ModelConfig, files: ModelFiles) -> TextModel:
    tokenizer = _tokenizer(files)
    tokenizer_config = _json_object(files, model_files.TOKENIZER_CONFIG)
    special_tokens = _special_tokens(tokenizer_config)
    templates = {
        name: _compiled(source, special_tokens, where)
        for name, (source, where) in _template_sources(
            files, tokenizer_config, config.chat_template
        ).items()
        if name in {"default", "tool_use"}
    }
    generation_config = {}
    if config.generation_config != "vllm":
        generation_config = _json_object(files, model_files.GENERATION_CONFIG)
    return TextModel(
        info,
        tokenizer,
        templates.get("default"),
        _defaults(generation_config, files.path(model_files.GENERATION_CONFIG)),
        templates.get("tool_use"),
        special_tokens,
        _ends(generation_config),
    )


def _tokenizer(files: ModelFiles) -> Tokenizer:
    try:
        return LibraryTokenizer(read_tokenizer(files.contents.pop(model_files.TOKENIZER)))
    except KeyError:
        reason = "there is no such file"
    except Exception as error:  # noqa: BLE001 - the library raises no narrower type
        reason = str(error)
    message = f"cannot read {files.path(model_files.TOKENIZER)}: {reason}"
    raise TextModelError(message)


def _special_tokens(tokenizer_config: dict[str, Any]) -> dict[str, str]:
    return {
        token: text
        for token in _SPECIAL_TOKEN_NAMES
        if (text := _token_text(tokenizer_config.get(token))) is not None
    }


def _compiled(source: str, special_tokens: dict[str, str], where: str) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens)
    except TemplateSyntaxError as error:
        message = f"the chat template in {where} is not valid: {error}"
        raise TextModelError(message) from error


def _template_sources(
    files: ModelFiles, tokenizer_config: dict[str, Any], override: str | None
) -> dict[str, tuple[str, str]]:
    """Return the templates by name, each with its origin.

    A configured file replaces all; the model's template files take precedence over its
    tokenizer_config.json.
    """
    if override:
        return {"default": (_template_text(override), override)}
    if model_files.TEMPLATE not in files.contents:
        path = files.path(model_files.TOKENIZER_CONFIG)
        return _configured_sources(path, tokenizer_config)
    return {
        name: (_template_text(files.path(file), files.contents[file]), files.path(file))
        for name, file in _TEMPLATE_FILES.items()
        if file in files.contents
    }


def _configured_sources(path: str, tokenizer_config: dict[str, Any]) -> dict[str, tuple[str, str]]:
    template = tokenizer_config.get("chat_template")
    if template is None:
        return {}
    by_name = {"default": template}
    if isinstance(template, list):
        # Several by name: [{"name": "default", "template": ...}, {"name": "tool_use", ...}].
        try:
            by_name = {entry["name"]: entry["template"] for entry in template}
        except (KeyError, TypeError):
            message = f"{path}: chat_template must be text or a list of names and templates"
            raise TextModelError(message) from None
    for source in by_name.values():
        if not isinstance(source, str):
            message = f"{path}: chat_template must be text, not {type(source).__name__}"
            raise TextModelError(message)
    return {name: (source, path) for name, source in by_name.items()}


def _template_text(path: str, content: bytes | None = None) -> str:
    """Return a template file as text.

    Args:
        path: Its path.
        content: What it holds; None to read it.
    """
    try:
        return (Path(path).read_bytes() if content is None else content).decode()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the chat template {path}: {error}"
        raise TextModelError(message) from error


def _token_text(token: Any) -> str | None:
    """Special tokens are written as text or as {"content": text, ...}."""
    return token.get("content") if isinstance(token, dict) else token


def _defaults(generation_config: dict[str, Any], path: str) -> SamplingParams:
    chosen = {
        name: generation_config[name]
        for name in _GENERATION_CONFIG_FIELDS
        if generation_config.get(name) is not None
    }
    try:
        return msgspec.convert(chosen, SamplingParams).over(DEFAULTS)
    except msgspec.ValidationError as error:
        message = f"{path}: {error}"
        raise TextModelError(message) from error


def _ends(generation_config: dict[str, Any]) -> frozenset[int]:
    ends = generation_config.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in listed if isinstance(token, int))


def _json_object(files: ModelFiles, name: str) -> dict[str, Any]:
    """Return a file's JSON object; an empty one without the file, or if it holds no object."""
    content = files.contents.get(name)
    if content is None:
        return {}
    try:
        document = json.loads(content)
    except ValueError as error:
        message = f"cannot read {files.path(name)}: {error}"
        raise TextModelError(message) from error
    return document if isinstance(document, dict) else {}
