"""Loads the configuration: the environment overrides the file, which overrides the defaults."""

import difflib
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vgate.config.aliases import alias_problems
from vgate.config.home import expand_home
from vgate.config.model import AdditionalModel, Model
from vgate.config.models.task import known_task
from vgate.config.schema import Config, State
from vgate.config.variables import (
    CONFIG_PATH,
    REMOVED_KEYS,
    origin,
    overlay,
    require_vllm_key,
)
from vgate.validation import Problem, explain, problems

# Read where V-Gate is started, if it is there and no other one is named.
DEFAULT_FILE = "config.yaml"
# Where an error shows the wrong value: not where secrets are, or may be by mistake.
_SHOWN_SECTIONS = (
    *(f"{name}." for name in Config.__struct_fields__ if name not in ("security", "state")),
    *(f"state.{name}." for name in State.__struct_fields__ if name != "url"),
    "security.enabled.",
    "security.exempt_paths",
    "security.rate_limiting.",
)
# What is usually meant where PyYAML says so.
_YAML_HINTS = {
    "\\t": "indent with spaces, not with tabs",
    "mapping values are not allowed": "a text with a colon in it needs quotes",
    "expected <block end>": "lines of one section need the same indent",
    "found undefined alias": "a text that begins with * needs quotes",
}
_SECRET_KEYS = frozenset({"key", "key_sha256", "password", "token", "hf_token", "api_key"})
# Who a URL says one is, with a password or without.
_URL_SECRETS = re.compile(r"(?<=://)\S*(?=@)|(?<=[?&]password=)[^&\s]+")


class ConfigError(Exception):
    """The configuration can't be used: each of the `problems` is one line, and says what to do."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


def load(environ: Mapping[str, str]) -> Config:
    """Load and check the configuration.

    Args:
        environ: The process environment. ``VGATE_CONFIG_PATH`` names a file, which must exist;
            without it, ``./config.yaml`` is read if it exists.

    Raises:
        ConfigError: The file can't be read, or a key or value is not allowed.
    """
    return load_file(environ)[0]


def load_file(environ: Mapping[str, str]) -> tuple[Config, str]:
    """Load as `load` does; return the file's name too if nothing is in it, and else ""."""
    document, file, lines, is_empty = _read_yaml(environ)
    origins, found = overlay(document, environ)
    require_vllm_key(document, environ)
    expand_home(document)
    section = document.get("logging")
    if isinstance(section, dict) and isinstance(level := section.get("level"), str):
        section["level"] = level.lower()  # the names in Python's logging are upper case
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        for problem in problems(document, Config) or [explain(error, document, Config)]:
            line = lines.get(problem.path)
            source = f"{file}, line {line}" if line else file
            found.append(_describe(problem, origin(origins, problem.path) or source))
        raise ConfigError(*found) from None
    for path in _endless(document):
        line = lines.get(path)
        source = origin(origins, path) or (f"{file}, line {line}" if line else file)
        found.append(_describe(Problem(path, "value", "a number that is not infinite"), source))
    common = document.get("model", {})
    if config.models and "model_id" not in common:
        first, *others = [{**common, **given} for given in document["models"]]
        config = msgspec.structs.replace(
            config,
            model=msgspec.convert(first, Model),
            models=msgspec.convert(others, list[AdditionalModel]),
        )
    found += [*_name_problems(config), *_proxy_problems(config.server.trusted_proxies)]
    found += _alias_problems(config)
    if found:
        raise ConfigError(*found)
    return config, file if is_empty else ""


def check_aliases(config: Config) -> None:
    """Raise `ConfigError` if the aliases don't suit the models, of which some may be earlier ones.

    `load` has checked those that it returns.
    """
    if found := [*_alias_problems(config)]:
        raise ConfigError(*(f"{problem} (as now served)" for problem in found))


def masked(config: Config) -> dict[str, Any]:
    """Return the configuration as builtin types, with secrets hidden."""
    document: dict[str, Any] = _mask(msgspec.to_builtins(config))
    return document


def _endless(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of numbers that are infinite or none: the other processes get JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _endless(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _endless(item, f"{path}[{index}]")


def _alias_problems(config: Config) -> Iterator[str]:
    models = map(_with_known_task, config.all_models if config.aliases else [])
    return alias_problems(config.aliases, models, has_keys=config.security.enabled)


def _with_known_task(model: Model) -> Model:
    return msgspec.structs.replace(model, task=known_task(model) or "auto")


def _name_problems(config: Config) -> Iterator[str]:
    """Yield which model names and key names are given twice."""
    served = [name for model in config.all_models for name in model.served_names]
    adapters = [name for model in config.all_models for name in model.adapter_names]
    keys = [key.name for key in config.security.api_keys]
    for what, names in (
        ("served_model_name", served),
        ("lora_adapters: the model name", adapters),
        ("security.api_keys: the name", keys),
    ):
        taken = names + served if names is adapters else names
        for name in dict.fromkeys(name for name in names if taken.count(name) > 1):
            yield f"{what} `{name}` is used twice; give each its own"
    for model in config.all_models:
        if model.lora_adapters and (task := known_task(model)) not in {None, "generate"}:
            does = "embeds" if task == "embed" else "classifies"
            yield f"lora_adapters: {model.served_names[0]} {does} text, and takes no adapters"


def _proxy_problems(trusted: list[str]) -> Iterator[str]:
    for index, network in enumerate(trusted):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            yield (
                f"`server.trusted_proxies[{index}]` must be an address or a network such as "
                f"10.0.0.0/8, got {json.dumps(network)}"
            )


def _read_yaml(environ: Mapping[str, str]) -> tuple[dict[str, Any], str, dict[str, int], bool]:
    """Return the file's document, its name, the line of each path, and whether it is empty."""
    # Only the launcher needs yaml, which takes a megabyte.
    import yaml

    named = environ.get(CONFIG_PATH)
    path = Path(named or DEFAULT_FILE)
    if not named and not path.exists():
        return {}, "the defaults", {}, False
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        lines = _lines(root, path)
        document = loader.construct_document(root) if root is not None else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML{_where_and_why(error)}") from None
    if not isinstance(document, dict | None):
        raise ConfigError(f"{path} must hold a map of sections, not a {type(document).__name__}")
    # An empty section ("cache:" with nothing under it) means its defaults.
    sections = {key: {} if value is None else value for key, value in (document or {}).items()}
    return sections, str(path), lines, root is None


def _where_and_why(error: Any) -> str:
    """Return where the YAML is broken and why, and what is usually meant."""
    mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or why is None:
        return f": {' '.join(str(error).split())}"
    hint = next((f" ({hint})" for words, hint in _YAML_HINTS.items() if words in why), "")
    return f", line {mark.line + 1}, column {mark.column + 1}: {why}{hint}"


def _lines(root: Any, path: Path) -> dict[str, int]:
    """Return the line of each path below a YAML node.

    Raises:
        ConfigError: Keys are given twice, of which PyYAML would take the last one.
    """
    nodes, seen = [(root, "")], set()
    found: dict[str, int] = {}
    twice: list[str] = []
    while nodes:
        node, above = nodes.pop()
        if id(node) in seen or not isinstance(children := getattr(node, "value", None), list):
            continue
        seen.add(id(node))  # an anchor may be inside itself
        if node.id == "sequence":
            nodes += [(child, f"{above}[{number}]") for number, child in enumerate(children)]
            continue
        lines: dict[str, int] = {}
        for key, value in children:
            name, line = str(key.value), key.start_mark.line + 1
            where = f"{above}.{name}" if above else name
            nodes.append((value, where))
            found[where] = line
            if name in lines:
                twice.append(
                    f"{path} has `{name}` in line {lines[name]} and again in line {line}, "
                    "and only one of them would count: make them one"
                )
            lines[name] = line
    if twice:
        raise ConfigError(*twice)
    return found


def _describe(problem: Problem, source: str) -> str:
    if not f"{problem.path}.".startswith(_SHOWN_SECTIONS):
        # A value in the wrong place may be an API key.
        problem = msgspec.structs.replace(problem, sent=None)
    hint = ""
    if problem.kind == "unknown" and problem.path in REMOVED_KEYS:
        hint = f" any more; {REMOVED_KEYS[problem.path]}"
    elif problem.kind == "unknown":
        known, name = problem.choices, problem.path.rpartition(".")[2]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(known)}"
    elif problem.sent is not None:
        close = difflib.get_close_matches(problem.sent.strip('"').lower(), problem.choices, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{problem}{hint} (from {source})"


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "********" if key in _SECRET_KEYS and item else _mask(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return _URL_SECRETS.sub("********", value) if isinstance(value, str) else value
