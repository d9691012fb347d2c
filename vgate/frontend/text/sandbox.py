"""jinja2's side of chat templates: the sandbox that renders them."""

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
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vgate.frontend.text.template_errors import RefusedError, TemplateSyntaxError

_MAX_REPEATED = 1_000_000
_MAX_BITS = 4096
# A width in a format that is large, or is an argument.
_WIDE = re.compile(r"\d{5}|%[^%]*\*")

_DICT_ATTRIBUTES = frozenset(dir(dict))


def compiled(
    source: str, clock: Callable[[], float] = time.time
) -> tuple[jinja2.Template, frozenset[str]]:
    """Return a template, and the names that it uses and does not always define itself.

    `clock` returns Unix time, for templates that contain the date.

    Raises:
        TemplateSyntaxError: The source isn't valid.
    """
    environment = _environment(clock)
    try:
        parsed = environment.parse(source)
        template = environment.from_string(parsed)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateSyntaxError(f"line {error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError):
        raise TemplateSyntaxError("it is nested too deeply") from None
    except (SyntaxError, ValueError, OverflowError) as error:
        # Jinja accepts it and Python does not, such as very long numbers.
        raise TemplateSyntaxError(str(error)) from error
    # jinja2's own chain of mappings is copied, item by item, for every rendering.
    template.globals = dict(template.globals)
    return template, frozenset(jinja2.meta.find_undeclared_variables(parsed))


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox that Hugging Face uses, with bounds on operators that make huge values."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Get an attribute, or an item of that name."""
        # Messages are dictionaries without an attribute "role". Jinja finds that out by an
        # exception, which would be the most expensive part of rendering a message.
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
            raise SecurityError("it formats a very wide field")
        return super().call_binop(context, operator, left, right)


def _environment(clock: Callable[[], float]) -> _Sandbox:
    def strftime_now(pattern: str) -> str:
        return datetime.fromtimestamp(clock()).astimezone().strftime(pattern)

    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationExtension],
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": strftime_now}
    return environment


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise SecurityError(f"it makes a value of size {size}, at most {most} is allowed")


class _GenerationExtension(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; it has no effect here."""

    tags = {"generation"}  # noqa: RUF012 - as Extension declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Replace the block with its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise RefusedError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON text. Jinja's own filter escapes HTML, which would change the prompt."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
