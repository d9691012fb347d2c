"""Whether a model's chat template can be compiled, before frontends do it."""

import json
import re
from pathlib import Path
from typing import Any

from vgate.config.models.reading import content_of
from vgate.config.models.settings import CheckpointError

# transformers' own block, which says what to train on; its content is ordinary.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_FILE = "chat_template.jinja"
_USED = frozenset({"default", "tool_use"})


def check_template(directory: Path, names: set[str]) -> None:
    """Raise CheckpointError if the template that a model's directory has is not valid."""
    if _FILE in names:
        check_template_file(directory / _FILE)
        return
    for name in ("tokenizer_config.json", "chat_template.json"):
        if name in names and (sources := _listed(directory / name)):
            for source in sources:
                _check(source, directory / name)
            return


def _listed(path: Path) -> list[str]:
    """Return the templates of a JSON document that are used: one, or some of several."""
    try:
        document = json.loads(content_of(path))
    except ValueError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    found = document.get("chat_template") if isinstance(document, dict) else None
    listed: list[Any] = found if isinstance(found, list) else [{"template": found}]
    used = [e for e in listed if isinstance(e, dict) and e.get("name", "default") in _USED]
    return [e["template"] for e in used if isinstance(e.get("template"), str)]


def check_template_file(path: Path) -> None:
    """Raise CheckpointError if a file is no valid template."""
    try:
        _check(content_of(path).decode(), path)
    except UnicodeDecodeError:
        raise CheckpointError(f"the chat template in {path} is not text in UTF-8") from None


def _check(source: str, path: Path) -> None:
    # Takes megabytes, and some models have no template.
    import jinja2

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 - no HTML
    try:
        environment.parse(_GENERATION.sub("", source))
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"the chat template in {path} is not valid: line {error.lineno}: {error.message}"
        ) from None
    except RecursionError:
        raise CheckpointError(f"the chat template in {path} is nested too deeply") from None
