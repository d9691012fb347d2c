"""Paths in the configuration that begin with ``~``: nobody but a shell reads them otherwise."""

import os
from collections.abc import Iterator
from typing import Any

# Sections, and their keys that are paths. (`model_id` may be something else, and is read later.)
_PATHS = (
    (("server",), ("run_dir", "state_dir")),
    (("server", "tls"), ("certificate", "key", "client_ca")),
    (("security",), ("key_file",)),
    (("engine_link",), ("keys",)),
    (("dry_run",), ("script",)),
    (("model",), ("chat_template",)),
    (("models",), ("chat_template",)),
    (("additional_models",), ("chat_template",)),
    (("model", "lora_adapters"), ("path",)),
    (("models", "lora_adapters"), ("path",)),
    (("additional_models", "lora_adapters"), ("path",)),
)


def expand_home(document: dict[str, Any]) -> None:
    """Put home directories for ``~`` and ``~name`` in the paths of a document, which is changed.

    A home that isn't known leaves the path as it is. What has another type than a path is skipped:
    it is refused later.
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
