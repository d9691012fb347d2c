"""Chat templates, rendered as ``transformers``' ``apply_chat_template`` renders them.

Same sandbox, block trimming, loop controls, filters and globals (its chat templating guide
documents them). A client's template can only render: its output and its operators are bounded.
Its time and its variables are not, so the operator has to allow such templates.
"""

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

from vgate.errors import InvalidValueError
from vgate.frontend.text.piece_encoder import SHIELD

# More than the longest contexts hold: 10 million tokens of a few characters each.
MAX_RENDERED_CHARS = 64 * 1024 * 1024
_MAX_REPEATED = 1_000_000
_MAX_BITS = 4096
# A width in a format that is large, or is an argument.
_WIDE = re.compile(r"\d{5}|%[^%]*\*")
# Half of a UTF-16 pair, but for a shield: a tokenizer can't read it.
_HALF = re.compile("[\ud800-\udffe]")

_DICT_ATTRIBUTES = frozenset(dir(dict))

# Appended to the message to be continued, to find its end in the rendered text. Its space shows
# whether the template keeps spaces at the end of a message.
_MARK = "VGATE-CONTINUES-HERE"


class TemplateSyntaxError(Exception):
    """The chat template can't be compiled."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source.
        special_tokens: ``bos_token`` and the like, as text; templates use them by name.
        clock: Unix time, for templates that contain the date.
        of_client: Whether a client sent it, who may let it write what is no text.

    Attributes:
        variables: The names that it uses and does not always define itself.
        steps: What its users found out about changes that conversations of a shape need.

    Raises:
        TemplateSyntaxError: The source isn't valid.
    """

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        *,
        clock: Callable[[], float] = time.time,
        of_client: bool = False,
    ) -> None:
        self._of_client = of_client
        self.source = source
        self.special_tokens = special_tokens
        self.steps: dict[Any, Any] = {}
        environment = _environment(clock)
        try:
            parsed = environment.parse(source)
            self._template = environment.from_string(parsed)
            # jinja2's own chain of mappings is copied, item by item, for every rendering.
            self._template.globals = dict(self._template.globals)
            # The variables of every rendering.
            self._given: dict[str, Any] = {**self._template.globals, **special_tokens}
        except jinja2.TemplateSyntaxError as error:
            raise TemplateSyntaxError(f"line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError):
            raise TemplateSyntaxError("it is nested too deeply") from None
        except (SyntaxError, ValueError, OverflowError) as error:
            # Jinja accepts it and Python does not, such as very long numbers.
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
            messages: As `template_message` makes them.
            tools: As OpenAI defines them; the template gets None for an empty list.
            documents: Retrieved documents; as `tools`.
            add_generation_prompt: Whether to end with the start of an answer.
            continue_final_message: Whether to end inside the last message, to continue it.
            kwargs: Further variables; they replace special tokens of the same name.

        Raises:
            InvalidValueError: The template refuses these messages.
        """
        variables = {
            **self._given,
            **(kwargs or {}),
            "messages": messages,
            "tools": tools or None,
            "documents": documents or None,
            "add_generation_prompt": add_generation_prompt,
        }
        if not continue_final_message:
            return self._render(variables)
        *before, last = messages
        marked = {**last, "content": f"{last['content']}{_MARK} "}
        return _cut(self._render({**variables, "messages": [*before, marked]}), last["content"])

    def _render(self, variables: dict[str, Any]) -> str:
        try:
            parts, size = [], 0
            context = self._template.new_context(variables, shared=True)
            for part in self._template.root_render_func(context):
                size += len(part)
                if size > MAX_RENDERED_CHARS:
                    raise SecurityError(f"it renders more than {MAX_RENDERED_CHARS} characters")
                parts.append(part)
            return self._checked("".join(parts))
        except Exception as error:  # noqa: BLE001 - a template is a program and can raise anything
            failure = "refuses" if isinstance(error, _RefusedError) else "can't render"
            reason = str(error).replace(SHIELD, "").encode(errors="replace").decode()
            message = f"the model's chat template {failure} these messages: {reason}"
            raise InvalidValueError(message, param="messages") from None

    def _checked(self, rendered: str) -> str:
        if self._of_client and _HALF.search(rendered):
            raise SecurityError("it writes half of a UTF-16 pair")
        return rendered


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


def _environment(clock: Callable[[], float] = time.time) -> _Sandbox:
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


def _cut(text: str, final: str) -> str:
    """Return the rendered text up to the end of the last message's content."""
    end = text.rfind(_MARK)
    if end < 0 or final.strip() not in text:
        raise InvalidValueError(
            "`continue_final_message`: the model's chat template does not show the last message",
            param="continue_final_message",
        )
    kept = text.startswith(f"{_MARK} ", end)
    # A template that strips messages would have stripped this one without the mark too.
    return text[:end] if kept else text[:end].rstrip()


class _GenerationExtension(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; it has no effect here."""

    tags = {"generation"}  # noqa: RUF012 - as Extension declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Replace the block with its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _RefusedError(jinja2.TemplateError):
    """A template called ``raise_exception``."""


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


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
