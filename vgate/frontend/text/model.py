"""A model's text side: its tokenizer, chat template and sampling defaults."""

import ctypes
import gc
import json
from pathlib import Path
from typing import Any

import msgspec

from vgate.config.model import Model as ModelConfig
from vgate.errors import InvalidValueError
from vgate.frontend.parsing import (
    MARKS,
    PLAIN_TOOL_PARSER,
    detect_reasoning,
    detect_tool_parser,
)
from vgate.frontend.text.decode import TokenTexts
from vgate.frontend.text.library_tokenizer import LibraryTokenizer
from vgate.frontend.text.special_tokens import DeclaredTokens
from vgate.frontend.text.template import ChatTemplate
from vgate.frontend.text.template_errors import TemplateSyntaxError
from vgate.frontend.text.tokenizer import Tokenizer
from vgate.frontend.text.tokenizer_file import read_tokenizer
from vgate.wire import model_files
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import ModelFiles
from vgate.wire.parameters import DEFAULTS, SamplingParams

# Defaults that a model's authors may set in generation_config.json, those that vLLM takes
# (vllm/config/model.py, get_diff_sampling_param), by our names.
_GENERATION_CONFIG_FIELDS = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
    "max_tokens": "max_new_tokens",
}
_TEMPLATE_FILES = {"default": model_files.TEMPLATE, "tool_use": model_files.TOOL_TEMPLATE}


class TextModelError(Exception):
    """The model's text files can't be used; the message names the file."""


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class TextModel(msgspec.Struct, kw_only=True, eq=False):
    """A served model, ready to render and tokenise.

    Attributes:
        info: The engine's description of it.
        template: Its chat template; None if it has none.
        tool_template: Its chat template for requests with tools; usually the same.
        special_tokens: ``bos_token`` and the like, as text, for templates that clients send.
        template_kwargs: The operator's variables of templates, for the same.
        tokenizer_class: What transformers calls its tokenizer, if it says so.
        defaults: Its sampling defaults, complete.
        tool_parser: The name of its tool parser; None if the operator wants none.
        plain_calls: Whether its own format of tool calls is not known, so that it has to be told to
            write another one.
        reasons: Whether it writes reasoning that is split off.
        marks: The marks of gpt-oss's special tokens by their ids; empty for every other format.
        eos_id: The tokenizer's end-of-sequence token, if it has one.
        other_eos_ids: Further tokens that end an answer, from generation_config.json.
    """

    info: ModelInfo
    tokenizer: Tokenizer
    token_texts: TokenTexts
    template: ChatTemplate | None
    tool_template: ChatTemplate | None
    special_tokens: dict[str, str]
    template_kwargs: dict[str, Any] = {}
    tokenizer_class: str | None
    defaults: SamplingParams
    tool_parser: str | None
    plain_calls: bool
    reasons: bool
    marks: dict[int, str] = {}
    eos_id: int | None
    other_eos_ids: frozenset[int]

    def check_token_ids(self, tokens: list[int], param: str) -> None:
        """Refuse ids without an embedding, which would crash some engines.

        Models often have more embeddings than their tokenizer has tokens, so the engine's number
        counts; without one, the tokenizer's vocabulary does.

        Raises:
            InvalidValueError: Names the position of the first such id in `param`.
        """
        size = self.info.vocab_size or self.tokenizer.vocab_size
        if max(tokens, default=0) < size:
            return
        # Ids of added tokens may have gaps, and then exceed the number of tokens.
        may_have_gaps = not self.info.vocab_size
        for index, token in enumerate(tokens):
            if token < size or (may_have_gaps and self.tokenizer.id_to_token(token) is not None):
                continue
            where = f"{param}[{index}]"
            message = f"`{where}` must be a token id of the model, 0 to {size - 1}, got {token}"
            raise InvalidValueError(message, param=where)

    def encode_bad_words(self, words: list[str]) -> list[list[int]]:
        """Tokenise words that must not be generated, as vLLM does.

        A word usually has one token at the start of a text and another after a space. The latter
        is included if it takes as many tokens as the former.
        """
        sequences = []
        for word in words:
            at_start = self.tokenizer.encode(word.lstrip())
            after_space = self.tokenizer.encode(f" {word.lstrip()}")
            if at_start:
                sequences.append(at_start)
                if len(after_space) == len(at_start) and after_space[0] != at_start[0]:
                    sequences.append(after_space)
        return sequences


def template_problem(configured: str | None) -> str | None:
    """Return why a configured chat template can't be used; None if it can, or there is none."""
    try:
        if configured:
            _compiled(_template_text(configured), {}, {}, configured)
    except TextModelError as error:
        return str(error)
    return None


def load_text_model(info: ModelInfo, config: ModelConfig, files: ModelFiles) -> TextModel:
    """Load a model's text side. Takes up to a second for a large vocabulary.

    The tokenizer's file is removed from `files` so that it can be freed early: it is as large as
    the tokenizer.

    Raises:
        TextModelError: A file is missing or not valid.
    """
    # Freed memory makes room for the peak.
    _return_freed_memory()
    text = _load(info, config, files)
    _return_freed_memory()
    return text


def return_memory() -> None:
    """Free text models that nothing uses any more, which are cycles, and return their memory."""
    gc.collect()
    _return_freed_memory()


def _return_freed_memory() -> None:
    """Return freed memory to the system.

    glibc keeps it otherwise: 55 of 120 MB in a process that has read 150,000 tokens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _load(info: ModelInfo, config: ModelConfig, files: ModelFiles) -> TextModel:
    tokenizer_config = _json_object(files, model_files.TOKENIZER_CONFIG)
    declared = _declared_tokens(files, tokenizer_config)
    tokenizer, special_tokens = _tokenizer(files, declared), declared.named
    if config.allow_request_chat_template:
        import vgate.frontend.text.sandbox  # noqa: F401 - here it holds up no request
    templates = {
        name: _compiled(source, special_tokens, config.chat_template_kwargs, origin)
        for name, (source, origin) in _template_sources(files, config.chat_template).items()
    }
    template = templates.get("default")
    tool_template = templates.get("tool_use", template)
    generation_config = _json_object(files, model_files.GENERATION_CONFIG)
    detected = detect_tool_parser(tool_template.source) if tool_template else None
    marks = _marks(tokenizer, files, config.tool_parser, detected)
    tool_parser = None if config.tool_parser == "none" else config.tool_parser
    plain_calls = False
    if tool_parser == "auto":
        plain_calls = detected is None
        tool_parser = detected or PLAIN_TOOL_PARSER
    reasons = config.reasoning_parser == "think"
    if config.reasoning_parser == "auto":
        reasons = bool(marks) or (template is not None and detect_reasoning(template.source))
    eos_token = special_tokens.get("eos_token")
    eos_id = None if eos_token is None else tokenizer.token_to_id(eos_token)
    return TextModel(
        info=info,
        tokenizer=tokenizer,
        token_texts=TokenTexts(tokenizer),
        template=template,
        tool_template=tool_template,
        special_tokens=special_tokens,
        template_kwargs=config.chat_template_kwargs,
        tokenizer_class=tokenizer_config.get("tokenizer_class"),
        defaults=_defaults(config, generation_config, files.path(model_files.GENERATION_CONFIG)),
        tool_parser=tool_parser,
        plain_calls=plain_calls,
        reasons=reasons,
        marks=marks,
        eos_id=eos_id,
        other_eos_ids=_eos_ids(generation_config) - {eos_id},
    )


def _declared_tokens(files: ModelFiles, tokenizer_config: dict[str, Any]) -> DeclaredTokens:
    names = model_files.SPECIAL_TOKENS, model_files.ADDED_TOKENS
    try:
        return DeclaredTokens(tokenizer_config, *(_json_object(files, name) for name in names))
    except (ValueError, TypeError, AttributeError) as error:
        where = ", ".join(map(files.path, (model_files.TOKENIZER_CONFIG, *names)))
        raise TextModelError(f"the added tokens can't be read, see {where}: {error}") from error


def _tokenizer(files: ModelFiles, declared: DeclaredTokens) -> Tokenizer:
    try:
        library = read_tokenizer(files.contents.pop(model_files.TOKENIZER))
        declared.add_to(library)
        return LibraryTokenizer(library)
    except KeyError:
        reason = "there is no such file"
    except Exception as error:  # noqa: BLE001 - the library raises no narrower type
        reason = str(error)
    raise TextModelError(f"cannot read {files.path(model_files.TOKENIZER)}: {reason}")


def _marks(
    tokenizer: Tokenizer, files: ModelFiles, configured: str, detected: str | None
) -> dict[int, str]:
    """Return gpt-oss's marks by token id, if a model writes its format.

    It does so with `tool_parser: none` as well: that is about calls, and this about all messages.
    """
    wanted = detected if configured in {"auto", "none"} else configured
    if wanted != "harmony":
        return {}
    marks = {}
    for token, mark in MARKS.items():
        if (token_id := tokenizer.token_to_id(token)) is None:
            where = files.path(model_files.TOKENIZER)
            raise TextModelError(f"the model can't write gpt-oss's format: {where} has no {token}")
        marks[token_id] = mark
    return marks


def _compiled(
    source: str, special_tokens: dict[str, str], defaults: dict[str, Any], origin: str
) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens, defaults=defaults)
    except TemplateSyntaxError as error:
        raise TextModelError(f"the chat template in {origin} is not valid: {error}") from error


def _template_sources(files: ModelFiles, override: str | None) -> dict[str, tuple[str, str]]:
    """Return the sources of the templates "default" and "tool_use", each with its origin.

    A configured file replaces all. The model's chat_template.jinja and the files beside it come
    before its tokenizer_config.json, and the template of its processor comes last.
    """
    if override:
        return {"default": (_template_text(override), override)}
    sources = {
        name: (_template_text(files.path(file), files.contents[file]), files.path(file))
        for name, file in _TEMPLATE_FILES.items()
        if file in files.contents
    }
    for file in (model_files.TOKENIZER_CONFIG, model_files.PROCESSOR_TEMPLATE):
        if "default" not in sources:
            sources = _listed_templates(files, file) | sources
    return sources


def _listed_templates(files: ModelFiles, name: str) -> dict[str, tuple[str, str]]:
    """Return the templates in a JSON file: one, or a list of named ones."""
    document, path = _json_object(files, name), files.path(name)
    try:
        listed = msgspec.convert(document.get("chat_template"), str | list[_NamedTemplate] | None)
    except msgspec.ValidationError as error:
        raise TextModelError(f"{path}: chat_template: {error}") from error
    if isinstance(listed, list):
        return {t.name: (t.template, path) for t in listed if t.name in _TEMPLATE_FILES}
    return {} if listed is None else {"default": (listed, path)}


def _template_text(path: str, content: bytes | None = None) -> str:
    """Return a template file as text; reads it if there is no `content`."""
    try:
        return (Path(path).read_bytes() if content is None else content).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TextModelError(f"cannot read the chat template {path}: {error}") from error


def _defaults(config: ModelConfig, generation_config: dict[str, Any], path: str) -> SamplingParams:
    """Return the operator's defaults over the model's own, if these count, as vLLM does."""
    defaults = DEFAULTS
    given = config.engine_args.get("override_generation_config")
    override = given if isinstance(given, dict) else {}  # vLLM refuses what is no object
    own = {} if config.generation_config == "vllm" else generation_config
    for fields, origin in ((own, path), (override, "override_generation_config")):
        chosen = {name: fields.get(field) for name, field in _GENERATION_CONFIG_FIELDS.items()}
        try:
            defaults = msgspec.convert(chosen, SamplingParams).over(defaults)
        except msgspec.ValidationError as error:
            raise TextModelError(f"{origin}: {error}") from error
    return defaults


def _eos_ids(generation_config: dict[str, Any]) -> frozenset[int]:
    ids = generation_config.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(token for token in listed if isinstance(token, int))


def _json_object(files: ModelFiles, name: str) -> dict[str, Any]:
    """Return a file's JSON object; an empty one if there is no file or it holds something else."""
    try:
        document = json.loads(files.contents.get(name, b"{}"))
    except ValueError as error:
        raise TextModelError(f"cannot read {files.path(name)}: {error}") from error
    return document if isinstance(document, dict) else {}
