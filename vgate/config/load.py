"""Loads the configuration: environment over YAML over defaults."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vgate.config.earlier import REPLACED
from vgate.config.schema import Config
from vgate.validation import Problem, explain

ENV_PREFIX = "VGATE_"
CONFIG_PATH = "VGATE_CONFIG_PATH"
DEFAULT_PATH = "config.yaml"
# Variables with the prefix that aren't configuration keys: what chooses the file, the mode and
# the interpreter.
RESERVED = frozenset(
    {CONFIG_PATH, "VGATE_BACKEND", "VGATE_DRY_RUN", "VGATE_PYTHON", "VGATE_RUN_DIR"}
)

# Where a wrong value is shown: everywhere but where secrets are, or might be by mistake.
_SHOWN_SECTIONS = (
    *(f"{name}." for name in Config.__struct_fields__ if name != "security"),
    "security.enabled.",
    "security.exempt_paths",
    "security.rate_limiting.",
)
_MASK = "********"
_SECRET_KEYS = frozenset({"key", "key_sha256", "password", "token", "hf_token", "api_key"})


class ConfigError(Exception):
    """The configuration can't be used; the message names path, value and what is allowed."""


def load(environ: Mapping[str, str]) -> Config:
    """Load and check the configuration.

    Args:
        environ: The process environment. ``VGATE_CONFIG_PATH`` names the file (it must exist
            then); without it ``./config.yaml`` is read if there is one.

    Raises:
        ConfigError: The file can't be read, or a key or value is not allowed.
    """
    document, source = _read_yaml(environ)
    origins = _overlay_environment(document, environ)
    _lower_level(document)
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        problem = explain(error, document)
        origin = _origin(origins, problem.path)
        raise ConfigError(_sentence(problem, origin or source)) from None
    _check_names(config)
    return config


def masked(config: Config) -> dict[str, Any]:
    """Return the effective configuration as builtin types, with secrets hidden."""
    document: dict[str, Any] = _mask(msgspec.to_builtins(config))
    return document


def _check_names(config: Config) -> None:
    """See that a request's model name and a key's name mean one thing.

    Raises:
        ConfigError: A name is given twice.
    """
    served = [name for model in config.models for name in model.served_names]
    adapters = [name for model in config.models for name in model.adapter_names]
    keys = [key.name for key in config.security.api_keys]
    for what, names in (
        ("served_model_name", served),
        ("lora_adapters: the model name", adapters + served),
        ("security.api_keys: the name", keys),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            message = f"{what} `{twice}` is used twice; give each its own"
            raise ConfigError(message)
    for model in config.models:
        if model.lora_adapters and model.task != "generate":
            message = f"lora_adapters: {model.served_names[0]} embeds text, and takes no adapters"
            raise ConfigError(message)


def _lower_level(document: dict[str, Any]) -> None:
    """Take the level in any case: logging's own names for them are upper case."""
    section = document.get("logging")
    if isinstance(section, dict) and isinstance(level := section.get("level"), str):
        section["level"] = level.lower()


def _read_yaml(environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    # Only the launcher reads it: in a frontend this would be a megabyte that nothing needs.
    import yaml

    named = environ.get(CONFIG_PATH)
    path = Path(named or DEFAULT_PATH)
    if not named and not path.exists():
        return {}, "the defaults"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"cannot read the configuration {path}: {reason}"
        raise ConfigError(message) from None
    except yaml.YAMLError as error:
        message = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise ConfigError(message) from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        message = f"{path} must hold a map of sections, not a {type(document).__name__}"
        raise ConfigError(message)
    # An empty section ("cache:" with nothing under it) means its defaults.
    return {key: {} if value is None else value for key, value in document.items()}, str(path)


def _overlay_environment(document: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Put the environment's values over the document; return which variable set which path."""
    origins = {}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in RESERVED:
            continue
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        target = document
        for step in path[:-1]:
            child = target.setdefault(step, {})
            if not isinstance(child, dict):
                message = f"{variable} sets a key inside `{step}`, which is not a section"
                raise ConfigError(message)
            target = child
        target[path[-1]] = _parse(variable, environ[variable], _type_of(Config, path))
        origins[".".join(path)] = variable
    return origins


def _type_of(cls: Any, path: list[str]) -> Any:
    """Return the annotation of the key at `path`, or None if there is no such key."""
    for step in path:
        if not (isinstance(cls, type) and issubclass(cls, msgspec.Struct)):
            return None
        cls = typing.get_type_hints(cls, include_extras=True).get(step)
    return cls


def _parse(variable: str, text: str, annotation: Any) -> Any:
    """Read one variable: lists and maps as JSON, the rest as the key's own type."""
    kinds = _kinds(annotation)
    if "null" in kinds and text.strip().lower() in {"", "null", "none"}:
        return None
    if kinds & {"array", "object"} and text.lstrip()[:1] in {"[", "{"}:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            message = f"{variable} must be JSON: {error}"
            raise ConfigError(message) from None
    if "bool" in kinds and text.strip().lower() in {"yes", "on"}:
        return True
    if "bool" in kinds and text.strip().lower() in {"no", "off"}:
        return False
    if "str" in kinds:
        return text
    for plain in (int, float, bool):
        if plain.__name__ in kinds:
            try:
                return msgspec.convert(text.strip(), plain, strict=False)
            except msgspec.ValidationError:
                continue
    return text


def _kinds(annotation: Any) -> set[str]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin in {typing.Union, types.UnionType}:
        return {kind for arg in typing.get_args(annotation) for kind in _kinds(arg)}
    if origin is typing.Literal:
        return {"str"}
    base = origin or annotation
    names = {list: "array", dict: "object", type(None): "null"}
    return {names.get(base, getattr(base, "__name__", "str"))}


def _origin(origins: dict[str, str], path: str) -> str | None:
    for key, variable in origins.items():
        # The fault may be in the variable's value, or in a section that only the variable names.
        if f"{path}.".startswith((f"{key}.", f"{key}[")) or f"{key}.".startswith(f"{path}."):
            return variable
    return None


def _sentence(problem: Problem, source: str) -> str:
    if not f"{problem.path}.".startswith(_SHOWN_SECTIONS):
        # What is in a wrong place may be a key.
        problem = msgspec.structs.replace(problem, sent=None)
    hint = ""
    if problem.kind == "unknown" and problem.path in REPLACED:
        hint = f" any more; {REPLACED[problem.path]}"
    elif problem.kind == "unknown":
        *parents, name = problem.path.split(".")
        known = _names_in(Config, parents)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(known)}"
    return f"{problem}{hint} (from {source})"


def _names_in(cls: Any, path: list[str]) -> list[str]:
    section = _type_of(cls, path) if path else cls
    return list(getattr(section, "__struct_fields__", ()))


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _MASK if key in _SECRET_KEYS and item else _mask(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value
