"""Chat templates, rendered in the environment that Hugging Face gives them.

Same sandbox, block trimming, loop controls, filters and globals as ``transformers``'
``apply_chat_template`` (its chat templating guide documents them), without loading transformers.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from vgate.errors import InvalidValueError


class TemplateSyntaxError(Exception):
    """The model's chat template can't be compiled."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source.
        special_tokens: ``bos_token`` and the like, as text; templates use them by name.

    Raises:
        TemplateSyntaxError: The source isn't valid.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = special_tokens
        environment.add_extension(_GenerationExtension)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            message = f"line {error.lineno}: {error.message}"
            raise TemplateSyntaxError(message) from error

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Render a conversation with the prompt for an answer.

        Raises:
            InvalidValueError: The template refuses these messages.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special_tokens,
            )
        except _RefusedError as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise InvalidValueError(message, param="messages") from None
        except Exception as error:  # noqa: BLE001 - a template is a program, and fails as such
            message = f"the model's chat template can't render these messages: {error}"
            raise InvalidValueError(message, param="messages") from None


class _GenerationExtension(jinja2.ext.Extension):
    """``{% generation %}``: marks the assistant's text for training, and changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as Extension declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Take the block for its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _RefusedError(jinja2.TemplateError):
    """A template called ``raise_exception``."""


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like json.dumps: jinja's own filter escapes HTML, which would change the prompt."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
