"""Loads the configuration: the environment overrides the file, which overrides the defaults."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from vgate.config.schema import Config
from vgate.validation import Problem, explain

ENV_PREFIX = "VGATE_"
CONFIG_PATH = "VGATE_CONFIG_PATH"
# Variables with the prefix that aren't configuration keys.
RESERVED = frozenset(
    {CONFIG_PATH, "VGATE_BACKEND", "VGATE_DRY_RUN", "VGATE_PYTHON", "VGATE_RUN_DIR"}
)
# Keys of earlier versions, and what to do instead.
REMOVED_KEYS = {
    "model.enforce_eager": "use `model.engine_args: {enforce_eager: true}`",
    "model.engine_type": "vLLM is the only engine: remove it",
    "benchmark": "`python -m bench.load` measures a running server: remove it",
    "inference": "the model's own defaults count (`model.generation_config`): remove it",
    "metrics": "/metrics is always served: remove it",
    "tracing": "there is no tracing: remove it",
    "dryrun_simulated_latency_ms": "use `dry_run.step_ms`",
}

# Where an error shows the wrong value: not where secrets are, or may be by mistake.
_SHOWN_SECTIONS = (
    *(f"{name}." for name in Config.__struct_fields__ if name != "security"),
    "security.enabled.",
    "security.exempt_paths",
    "security.rate_limiting.",
)
_SCALARS = {inspect.IntType: int, inspect.FloatType: float, inspect.BoolType: bool}
_SECRET_KEYS = frozenset({"key", "key_sha256", "password", "token", "hf_token", "api_key"})


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that gets its settings otherwise.

    Whoever may read a process's environment would find the keys in it.
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(ENV_PREFIX) or name in RESERVED
    }


class ConfigError(Exception):
    """The configuration can't be used; the message says why, in one line."""


def load(environ: Mapping[str, str]) -> Config:
    """Load and check the configuration.

    Args:
        environ: The process environment. ``VGATE_CONFIG_PATH`` names a file, which must exist;
            without it, ``./config.yaml`` is read if it exists.

    Raises:
        ConfigError: The file can't be read, or a key or value is not allowed.
    """
    document, source = _read_yaml(environ)
    origins = _overlay_environment(document, environ)
    section = document.get("logging")
    if isinstance(section, dict) and isinstance(level := section.get("level"), str):
        section["level"] = level.lower()  # the names in Python's logging are upper case
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        problem = explain(error, document, Config)
        origin = _origin(origins, problem.path)
        raise ConfigError(_describe(problem, origin or source)) from None
    _check_names(config)
    return config


def masked(config: Config) -> dict[str, Any]:
    """Return the configuration as builtin types, with secrets hidden."""
    document: dict[str, Any] = _mask(msgspec.to_builtins(config))
    return document


def _check_names(config: Config) -> None:
    """Check that each model name and key name is given once."""
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
            raise ConfigError(f"{what} `{twice}` is used twice; give each its own")
    for model in config.models:
        if model.lora_adapters and model.task != "generate":
            raise ConfigError(
                f"lora_adapters: {model.served_names[0]} embeds text, and takes no adapters"
            )


def _read_yaml(environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    # Only the launcher needs yaml, which takes a megabyte.
    import yaml

    named = environ.get(CONFIG_PATH)
    path = Path(named or "config.yaml")
    if not named and not path.exists():
        return {}, "the defaults"
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        _check_keys(root, path)
        document = loader.construct_document(root) if root is not None else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict | None):
        raise ConfigError(f"{path} must hold a map of sections, not a {type(document).__name__}")
    # An empty section ("cache:" with nothing under it) means its defaults.
    sections = (document or {}).items()
    return {key: {} if value is None else value for key, value in sections}, str(path)


def _check_keys(root: Any, path: Path) -> None:
    """Raise `ConfigError` if a key of a YAML node is given twice, as PyYAML takes the last one."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(children := getattr(node, "value", None), list):
            continue
        seen.add(id(node))  # an anchor may be inside itself
        if node.id == "sequence":
            nodes += children
            continue
        lines: dict[str, int] = {}
        for key, value in children:
            nodes.append(value)
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise ConfigError(
                    f"{path} has `{name}` in line {lines[name]} and again in line {line}, "
                    "and only one of them would count: make them one"
                )
            lines[name] = line


def _overlay_environment(document: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Put the environment's values into the document; return the variable that set each path."""
    origins = {}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in RESERVED:
            continue
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        target = document
        for step in path[:-1]:
            child = target.setdefault(step, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{variable} sets a key inside `{step}`, which is not a section")
            target = child
        target[path[-1]] = _parse(variable, environ[variable], _type_of(path))
        origins[".".join(path)] = variable
    return origins


def _type_of(path: list[str]) -> Any:
    """Return msgspec's description of a key's type, or None if there is no such key."""
    found: Any = inspect.type_info(Config)
    for step in path:
        fields = getattr(found, "fields", ())
        found = next((field.type for field in fields if field.name == step), None)
    return found


def _parse(variable: str, text: str, key_type: Any) -> Any:
    """Parse a variable: lists and maps as JSON, the rest as the key's own type.

    Text that doesn't fit the type is returned as it is, for `msgspec.convert` to refuse.
    """
    kinds = {type(kind) for kind in getattr(key_type, "types", (key_type,))}
    stripped = text.strip()
    word = stripped.lower()
    if inspect.NoneType in kinds and word in {"", "null", "none"}:
        return None
    if kinds & {inspect.ListType, inspect.DictType} and stripped[:1] in {"[", "{"}:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{variable} must be JSON: {error}") from None
    if inspect.BoolType in kinds and word in {"yes", "on", "no", "off"}:
        return word in {"yes", "on"}
    if inspect.StrType in kinds:
        return text
    for scalar in kinds & _SCALARS.keys():
        try:
            return msgspec.convert(stripped, _SCALARS[scalar], strict=False)
        except msgspec.ValidationError:
            continue
    return text


def _origin(origins: dict[str, str], path: str) -> str | None:
    for key, variable in origins.items():
        # The problem is in the variable's value, or in a section that only the variable names.
        if f"{path}.".startswith((f"{key}.", f"{key}[")) or f"{key}.".startswith(f"{path}."):
            return variable
    return None


def _describe(problem: Problem, source: str) -> str:
    if not f"{problem.path}.".startswith(_SHOWN_SECTIONS):
        # A value in the wrong place may be an API key.
        problem = msgspec.structs.replace(problem, sent=None)
    hint = ""
    if problem.kind == "unknown" and problem.path in REMOVED_KEYS:
        hint = f" any more; {REMOVED_KEYS[problem.path]}"
    elif problem.kind == "unknown":
        *parents, name = problem.path.split(".")
        known = [field.name for field in getattr(_type_of(parents), "fields", ())]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(known)}"
    return f"{problem}{hint} (from {source})"


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "********" if key in _SECRET_KEYS and item else _mask(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value
