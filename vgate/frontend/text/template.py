"""Chat templates, rendered in the environment that Hugging Face gives them.

Same sandbox, block trimming, loop controls, filters and globals as ``transformers``'
``apply_chat_template`` (its chat templating guide documents them), without loading transformers.

A client may send a template of its own where the operator allows it. The sandbox keeps it from
everything but rendering, and the size of what it renders is bounded, as are the operators that make
much of little. Its time is not bounded, and neither is what it holds in variables: only a process
of its own could do that. That is why the operator has to allow it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from vgate.errors import InvalidValueError

# More than the longest contexts hold: 10 million tokens of a few characters each.
MAX_RENDERED_CHARS = 64 * 1024 * 1024
_MAX_REPEATED = 1_000_000
_MAX_BITS = 4096
# A width in a format that is long or comes from elsewhere.
_WIDE = re.compile(r"\d{5}|%[^%]*\*")

_DICT_ATTRIBUTES = frozenset(dir(dict))

# Ends the message to be continued, so that its end is found in what was rendered. The space tells
# whether the template kept the spaces at the end of the message.
_MARK = "VGATE-CONTINUES-HERE"


class TemplateSyntaxError(Exception):
    """The chat template can't be compiled."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source.
        special_tokens: ``bos_token`` and the like, as text; templates use them by name.
        clock: Unix time, for templates that tell the date.

    Attributes:
        source: The source.
        variables: The names that it refers to and does not always define itself.

    Raises:
        TemplateSyntaxError: The source isn't valid.
    """

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self.special_tokens = special_tokens
        environment = _environment(clock)
        try:
            parsed = environment.parse(source)
            self._template = environment.from_string(parsed)
            # jinja2's own chain of mappings is copied, item by item, for every rendering.
            self._template.globals = dict(self._template.globals)
        except jinja2.TemplateSyntaxError as error:
            message = f"line {error.lineno}: {error.message}"
            raise TemplateSyntaxError(message) from error
        except (RecursionError, MemoryError):
            message = "it is nested too deeply"
            raise TemplateSyntaxError(message) from None
        except (SyntaxError, ValueError, OverflowError) as error:
            # What jinja lets pass and Python does not, such as very long numbers.
            raise TemplateSyntaxError(str(error)) from error
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(parsed))

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            messages: As `template_messages` makes them.
            tools: As OpenAI defines them; none at all is None for the template.
            documents: What retrieval found; as `tools`.
            add_generation_prompt: Whether to end with the beginning of an answer.
            continue_final_message: Whether to end within the last message, so that it goes on.
            kwargs: Further variables; they come before special tokens of the same name.

        Raises:
            InvalidValueError: The template refuses these messages.
        """
        text = self._render(
            {
                **self.special_tokens,
                **(kwargs or {}),
                "messages": _marked(messages) if continue_final_message else messages,
                "tools": tools or None,
                "documents": documents or None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
        return _cut(text, messages[-1]["content"]) if continue_final_message else text

    def _render(self, variables: dict[str, Any]) -> str:
        try:
            parts, size = [], 0
            for part in self._template.generate(variables):
                size += len(part)
                if size > MAX_RENDERED_CHARS:
                    message = f"it renders more than {MAX_RENDERED_CHARS} characters"
                    raise _TooMuchError(message)
                parts.append(part)
            return "".join(parts)
        except _RefusedError as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise InvalidValueError(message, param="messages") from None
        except Exception as error:  # noqa: BLE001 - a template is a program, and fails as such
            message = f"the model's chat template can't render these messages: {error}"
            raise InvalidValueError(message, param="messages") from None


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox that Hugging Face uses, with bounds on what makes much of little."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Get an attribute, or an item of that name."""
        # Messages are dictionaries and "role" is no attribute of theirs: that need not be found out
        # by an exception, which costs more than all else that a message does.
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Compute, unless the result could be huge."""
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if hasattr(sequence, "__len__") and isinstance(count, int):
                    _check_size(len(sequence) * count, _MAX_REPEATED)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * right, _MAX_BITS)
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise _TooMuchError("it formats something very wide")
        return super().call_binop(context, operator, left, right)


def _environment(clock: Callable[[], float] = time.time) -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationExtension],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: _local(clock()).strftime(pattern)
    return environment


def _local(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s).astimezone()


def _check_size(size: int, most: int) -> None:
    if size > most:
        message = f"it makes something of size {size}, at most {most} is allowed"
        raise _TooMuchError(message)


def _marked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with a mark at their end."""
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}{_MARK} "}]


def _cut(text: str, final: str) -> str:
    """Return what was rendered up to the end of the last message's text."""
    end = text.rfind(_MARK)
    if end < 0 or final.strip() not in text:
        message = (
            "`continue_final_message`: the model's chat template does not show the last message"
        )
        raise InvalidValueError(message, param="continue_final_message")
    kept = text.startswith(f"{_MARK} ", end)
    # A template that strips messages would have stripped this one without the mark too.
    return text[:end] if kept else text[:end].rstrip()


class _GenerationExtension(jinja2.ext.Extension):
    """``{% generation %}``: marks the assistant's text for training, and changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as Extension declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Take the block for its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _RefusedError(jinja2.TemplateError):
    """A template called ``raise_exception``."""


class _TooMuchError(jinja2.TemplateError):
    """A template makes too much."""


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


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
