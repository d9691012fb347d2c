"""A file of flags, as `vllm serve --config` takes it, where V-Gate's own file is expected."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vgate.commands.arguments import COMMANDS
from vgate.commands.flags.vllm import SERVING, Known

_CONFIG = "--config"


def taken_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without a file of vLLM's flags, and these flags.

    V-Gate's own file, a pipe, and what can't be read stay arguments.
    """
    serves = not any(word in COMMANDS and word not in SERVING for word in arguments)
    for at, word in enumerate(arguments if serves else []):
        name, equals, path = word.partition("=")
        if name == _CONFIG:
            after = at + 1 if equals else at + 2
            document = _read(path if equals else "".join(arguments[at + 1 : after]))
            if _is_vllms(document):
                return [*arguments[:at], *arguments[after:]], [*_flags(document)]
    return [*arguments], []


def _read(path: str) -> Any:
    import yaml

    try:
        # What is read from a pipe, such as decrypted settings, would be lost to V-Gate.
        if not Path(path).is_file():
            return None
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _is_vllms(document: Any) -> bool:
    """Whether all keys are flags; `model` is one of both, and a section in V-Gate's file."""
    if not isinstance(document, dict) or isinstance(document.get("model"), dict):
        return False
    flags = Known().flags
    return bool(document) and all(_flag(key) in flags for key in document)


def _flag(key: Any) -> str:
    return f"--{key}".replace("_", "-")


def _flags(document: dict[Any, Any]) -> Iterator[str]:
    flags = Known().flags
    for key, value in document.items():
        flag = _flag(key)
        if value is False:
            flag = flag.replace("--", "--no-", 1)
        if value is None or (value is False and flag not in flags) or value == []:
            continue
        yield flag
        if not isinstance(value, bool):
            for one in value if isinstance(value, list) else [value]:
                yield one if isinstance(one, str) else json.dumps(one)
