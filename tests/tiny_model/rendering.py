"""Rendering the chat template with jinja2 alone, as a reference for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from pathlib import Path


def plain_environment(*, trim: bool = True) -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates expect; `trim` sets its whitespace options."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=trim, lstrip_blocks=trim)
    # Jinja's own filter is made for HTML: it escapes <, > and & and sorts the keys.
    environment.filters["tojson"] = _to_json
    return environment


def read_template(directory: Path) -> str:
    """Return the chat template of the model in `directory`."""
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    template: str = config["chat_template"]
    return template


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
