"""Settings in environment variables: ``VGATE_SECTION__KEY``, and what else begins like that."""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import inspect

from vgate.config.schema import Config
from vgate.keys import MOST_REQUESTS

ENV_PREFIX = "VGATE_"
CONFIG_PATH = "VGATE_CONFIG_PATH"
# Variables with the prefix that aren't configuration keys.
RESERVED = frozenset(
    {CONFIG_PATH, "VGATE_BACKEND", "VGATE_DRY_RUN", "VGATE_PYTHON", "VGATE_RUN_DIR"}
)
# What the commands that ask a running server read; the server itself has no use for them.
FOR_COMMANDS = frozenset({"VGATE_URL", "VGATE_API_KEY"})
# Variables of vLLM's own server that have no effect here, and what to do instead.
_OF_VLLM = {
    "VLLM_USE_MODELSCOPE": "models come from the Hub, a mirror (HF_ENDPOINT) or a directory"
}
# The key that vLLM's own server requires.
VLLM_KEY = "VLLM_API_KEY"
# Keys of earlier versions, and what to do instead.
REMOVED_KEYS = {
    "model.enforce_eager": "use `model.engine_args: {enforce_eager: true}`",
    "model.engine_type": "vLLM is the only engine: remove it",
    "benchmark": "`python -m bench.load` measures a running server: remove it",
    "inference": "the model's own defaults count (`model.generation_config`): remove it",
    "dryrun_simulated_latency_ms": "use `dry_run.step_ms`",
}

_SCALARS = {inspect.IntType: int, inspect.FloatType: float, inspect.BoolType: bool}
# What Kubernetes sets in each container for a Service named vgate or vgate-NAME
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_OF_A_SERVICE = re.compile(
    r"VGATE(_[A-Z0-9]+)*?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that gets its settings otherwise.

    Whoever may read a process's environment would find the keys in it. An engine gets a model as a
    directory, and with ModelScope's variable vLLM would want its library.
    """
    return {
        name: value
        for name, value in environ.items()
        if (not name.startswith(ENV_PREFIX) or name in RESERVED)
        and name not in {VLLM_KEY, *_OF_VLLM}
    }


class Unknown(msgspec.Struct, frozen=True):
    """A variable that sets nothing, and what to do instead; "" if nothing is known."""

    name: str
    instead: str

    def __str__(self) -> str:
        return f"{self.name} is not a setting and is ignored{self.instead and '; '}{self.instead}"


def unknown_variables(environ: Mapping[str, str]) -> list[Unknown]:
    """Return the variables that look like settings and are none, but not those of Kubernetes."""
    names = sorted(name for name in environ if name.startswith(ENV_PREFIX))
    others = [name for name in _OF_VLLM if environ.get(name, "").lower() == "true"]
    return [Unknown(name, _OF_VLLM[name]) for name in others] + [
        Unknown(name, _instead(name))
        for name in names
        if name not in RESERVED | FOR_COMMANDS
        and not _is_setting(_path_of(name))
        and not (_OF_A_SERVICE.fullmatch(name) or _ADDRESS.match(environ[name]))
    ]


def overlay(
    document: dict[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Put variables into the document; return which set each path, and what is wrong with some."""
    origins: dict[str, str] = {}
    problems = []
    for variable in sorted(environ):
        path = _path_of(variable)
        if not variable.startswith(ENV_PREFIX) or variable in RESERVED or not _is_setting(path):
            continue
        try:
            value = _parse(variable, environ[variable], type_of(path))
        except ValueError as error:
            problems.append(str(error))
            continue
        target: Any = document
        for step in path[:-1]:
            target = target.setdefault(step, {}) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[path[-1]] = value
        else:
            section = ".".join(path[:-1])
            problems.append(f"{variable} sets a key inside `{section}`, which is not a section")
        origins[".".join(path)] = variable
    return origins, problems


def require_vllm_key(document: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Require the key of a script for vLLM's server, which would else be open; others go first.

    It has no limits of its own, as there, and the variable's name, which tells what sets it.
    """
    section = document.get("security", {})
    decided = "VGATE_SECURITY__ENABLED" in environ or not isinstance(section, dict)
    if decided or section.get("enabled") or not (key := environ.get(VLLM_KEY)):
        return
    one = {"name": VLLM_KEY, "key": key, "rate_limit": MOST_REQUESTS}
    document["security"] = {**section, "enabled": True, "api_keys": [one]}


def origin(origins: dict[str, str], path: str) -> str | None:
    """Return the variable that set what is at a path; None if none did."""
    for key, variable in origins.items():
        # The problem is in the variable's value, or in a section that only the variable names.
        if f"{path}.".startswith((f"{key}.", f"{key}[")) or f"{key}.".startswith(f"{path}."):
            return variable
    return None


def type_of(path: list[str]) -> Any:
    """Return msgspec's description of a key's type, or None if there is no such key."""
    found: Any = inspect.type_info(Config)
    for step in path:
        if isinstance(found, inspect.DictType):
            found = found.value_type
            continue
        name, item, _ = step.partition("[")
        fields = getattr(found, "fields", ())
        found = next((field.type for field in fields if field.name == name), None)
        found = getattr(found, "item_type", None) if item else found
    return found


def _path_of(variable: str) -> list[str]:
    return variable.removeprefix(ENV_PREFIX).lower().split("__")


def _is_setting(path: list[str]) -> bool:
    # In a map, such as model.engine_args, keys have any name.
    parents = (type_of(path[:length]) for length in range(1, len(path)))
    return type_of(path) is not None or any(isinstance(p, inspect.DictType) for p in parents)


def _settings(kind: Any, prefix: str) -> Iterator[str]:
    for field in getattr(kind, "fields", ()):
        name = f"{prefix}{field.name.upper()}"
        inner = [*_settings(field.type, f"{name}__")]
        yield from inner or [name]


def _instead(variable: str) -> str:
    path = _path_of(variable)
    if removed := REMOVED_KEYS.get(".".join(path)) or REMOVED_KEYS.get(path[0]):
        return removed
    known = [*_settings(inspect.type_info(Config), ENV_PREFIX), *sorted(RESERVED | FOR_COMMANDS)]
    last = variable.removeprefix(ENV_PREFIX)
    alone = len(path) == 1
    close = difflib.get_close_matches(variable, known, n=1, cutoff=0.8 if alone else 0.85)
    if not close and alone:  # without its section, where one only has it
        same = [name for name in known if name.endswith(f"__{last}")]
        close = same if len(same) == 1 else []
    return f"did you mean {close[0]}?" if close else ""


def _parse(variable: str, text: str, key_type: Any) -> Any:
    """Parse a variable: lists, maps and values of any type as JSON, the rest as the key's own type.

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
            raise ValueError(f"{variable} must be JSON: {error}") from None
    if inspect.BoolType in kinds and word in {"yes", "on", "no", "off"}:
        return word in {"yes", "on"}
    if inspect.StrType in kinds:
        return text
    if key_type is None or inspect.AnyType in kinds:  # in a map, such as model.engine_args
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(word if word in {"true", "false"} else stripped)
    for scalar in kinds & _SCALARS.keys():
        try:
            return msgspec.convert(stripped, _SCALARS[scalar], strict=False)
        except msgspec.ValidationError:
            continue
    return text
