"""Expands ``~`` in the paths of the configuration, as a shell does in arguments."""

import os
from collections.abc import Iterator
from typing import Any

_MODELS = ("model", "models", "additional_models")
# Sections, and their keys that are paths. (`model_id` is not one of them: it may be a name on the
# Hub. Where it is read, ``~`` is expanded too.)
_PATHS = (
    (("server",), ("run_dir", "state_dir")),
    (("server", "tls"), ("certificate", "key", "client_ca")),
    (("security",), ("key_file",)),
    (("engine_link",), ("keys",)),
    (("dry_run",), ("script",)),
    (("responses",), ("file",)),
    *(((name,), ("chat_template",)) for name in _MODELS),
    *(((name, "lora_adapters"), ("path",)) for name in _MODELS),
)


def expand_home(document: dict[str, Any]) -> None:
    """Replace ``~`` and ``~name`` at the beginning of paths by home directories, in place.

    If the home isn't known, the path stays as it is. Values that aren't texts are skipped, and
    refused later by the check of types.
    """
    for sections, keys in _PATHS:
        for section in _sections(document, sections):
            for key in keys:
                if isinstance(path := section.get(key), str):
                    section[key] = os.path.expanduser(path)  # noqa: PTH111 - may not be known


def _sections(value: Any, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _sections(item, names)
    elif isinstance(value, dict):
        if names:
            yield from _sections(value.get(names[0]), names[1:])
        else:
            yield value
