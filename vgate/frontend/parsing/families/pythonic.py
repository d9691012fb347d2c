"""Tool calls that are a Python list of calls, as Llama 4 and some of Llama 3.2 write them."""

import ast
import re
import warnings
from typing import Any

from vgate.frontend.parsing.json_text import ValueScan, to_json
from vgate.frontend.parsing.reader import Steps
from vgate.frontend.parsing.tool_parser import ToolParser

# Three quotes are read as an empty string and a quote, which gives the same end unless the string
# contains a quote.
_STRUCTURE = re.compile(r"""["'()\[\]{}]""")
# Models mix JSON's words into Python.
_JSON_WORDS = {"true": True, "false": False, "null": None}


class PythonicToolParser(ToolParser):
    """Reads ``[name(key=value, ...), ...]`` at the beginning of the text.

    A list is calls only if its first name is one of the tools. Values are literals. A call is
    emitted when it is complete, because a Python value's type shows only at its end.
    """

    # How templates of this family describe a call. Others have it between tags.
    template_signs = (r"(?<!>)\[func_name1\(params_name1=",)

    def _read_opening(self) -> Steps[bool]:
        reader = self._reader
        reader.record()
        yield from reader.spaces()
        if not (yield from reader.match("[")):
            return False
        yield from reader.spaces()
        while (yield from self._read_call()):
            separator = yield from self._skip(",", "]")
            if separator != ",":
                return True
            reader.record(separator)
            yield from reader.spaces()
            if (yield from reader.match("]")):
                reader.accept()
                return True
        return False

    def _read_call(self) -> Steps[bool]:
        reader = self._reader
        name = yield from self._read_name()
        if name not in self._tools or not (yield from reader.match("(")):
            return False
        parts: list[str] = []
        if not (yield from reader.scan(ValueScan(_STRUCTURE, ")"), parts.append)):
            return False
        arguments = _as_json("f(" + "".join(parts))
        if arguments is None:
            return False
        self._begin_call(name)
        self._emit_arguments(arguments)
        return True


def _as_json(call: str) -> str | None:
    """Return a call's arguments as JSON; None if they aren't all named literals."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that Python doesn't know
            node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            return None
        arguments = {keyword.arg: _value_of(keyword.value) for keyword in node.keywords}
        if None in arguments or len(arguments) < len(node.keywords):
            return None
        return to_json(arguments)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _value_of(node: ast.expr) -> Any:
    """Return the value of a literal.

    Raises:
        ValueError: It isn't a literal, or JSON has no such value.
    """
    match node:
        case ast.Constant(value=None | str() | int() | float() as value):
            return value
        case ast.Name(id=word) if word in _JSON_WORDS:
            return _JSON_WORDS[word]
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_value_of(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key_of(key): _value_of(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return +number
        case _:
            raise ValueError("not a literal")


def _key_of(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("not a key")
