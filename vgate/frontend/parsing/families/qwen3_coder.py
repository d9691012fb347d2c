"""Qwen3-Coder's tool calls: each parameter is a tag with plain text in it."""

import re
from typing import Any

from vgate.frontend.parsing.json_text import to_json
from vgate.frontend.parsing.reader import Markers, Sink, Steps
from vgate.frontend.parsing.schema_values import types_of, value_of
from vgate.frontend.parsing.tool_parser import ToolParser

_CALL_BEGIN = "<tool_call>"
_CALL_END = "</tool_call>"
_FUNCTION_BEGIN = "<function="
_FUNCTION_END = "</function>"
_PARAMETER_BEGIN = "<parameter="
_PARAMETER_END = "</parameter>"
_IN_FUNCTION = Markers(_PARAMETER_BEGIN, _FUNCTION_END, _CALL_END, _CALL_BEGIN, _FUNCTION_BEGIN)
# A value also ends here if its own end tag is missing.
_AFTER_VALUE = Markers(_PARAMETER_END, _PARAMETER_BEGIN, _FUNCTION_END)
_NAME = re.compile(r"[^<>\s]")
_PARAMETER_NAME = re.compile(r"[^<>\n]")
_MAX_NAME_CHARS = 256


class Qwen3CoderToolParser(ToolParser):
    """Reads ``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``.

    A newline after a parameter's tag and one before its end tag belong to the tags. A value has
    the type that the tool's schema gives it, and is a string if the schema doesn't say. Strings
    stream; other values are emitted when they are complete, or as they are at the end of the text.
    Text between parameters is content. ``<tool_call>`` and all end tags may be missing.
    """

    template_signs = (_CALL_BEGIN, _FUNCTION_BEGIN, _PARAMETER_BEGIN)
    markers = (_CALL_BEGIN, _FUNCTION_BEGIN)

    def _read_calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        if marker == _CALL_BEGIN:
            yield from reader.spaces()
            if not (yield from reader.match(_FUNCTION_BEGIN)):
                return False
        name = yield from reader.word(_NAME, _MAX_NAME_CHARS)
        if not name or not (yield from reader.match(">")):
            return False
        self._begin_call(name)
        marker = yield from self._read_parameters(name)
        if marker:
            self._emit_arguments("}")
        if marker in self.markers:
            reader.put_back(marker)
        else:
            reader.accept()
        if marker == _FUNCTION_END:
            yield from self._skip(_CALL_END)
        return True

    def _read_parameters(self, function: str) -> Steps[str]:
        """Read up to the function's end; return the marker that ended it, recorded."""
        reader = self._reader
        self._emit_arguments("{")
        clean, separator = True, ""
        while True:
            marker = yield from self._next_marker(_IN_FUNCTION, clean=clean)
            if marker != _PARAMETER_BEGIN:
                return marker
            key = yield from reader.word(_PARAMETER_NAME, _MAX_NAME_CHARS)
            clean = bool(key and (yield from reader.match(">")))
            if clean:
                reader.accept()
                self._emit_arguments(f"{separator}{to_json(key)}: ")
                separator = ", "
                yield from self._read_value(types_of(self._schema_of(function, key)))
            else:
                self._emit_content(reader.rejected())

    def _read_value(self, types: set[str]) -> Steps[None]:
        """Read a parameter's value and its end tag, if it has one."""
        reader = self._reader
        yield from reader.match("\n")
        if types == {"string"}:
            text = _TextValue(self._emit_arguments)
            marker = yield from reader.until(_AFTER_VALUE, text.write)
            text.end(complete=bool(marker))
        else:
            parts: list[str] = []
            marker = yield from reader.until(_AFTER_VALUE, parts.append)
            value = "".join(parts)
            self._emit_arguments(
                to_json(value_of(value.removesuffix("\n"), types)) if marker else value
            )
        if marker != _PARAMETER_END:
            reader.put_back(marker)

    def _schema_of(self, function: str, key: str) -> Any:
        parameters = self._tools.get(function, {}).get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        return properties.get(key) if isinstance(properties, dict) else None


class _TextValue:
    """Emits text as a JSON string while it arrives, without one newline at its end."""

    __slots__ = ("_emit", "_newline")

    def __init__(self, emit: Sink) -> None:
        self._emit = emit
        self._newline = ""
        emit('"')

    def write(self, text: str) -> None:
        """Emit more text."""
        text = self._newline + text
        self._newline = "\n" if text.endswith("\n") else ""
        self._emit(_escaped(text.removesuffix("\n")))

    def end(self, *, complete: bool) -> None:
        """Close the string; leave it open if the text ended inside it."""
        self._emit('"' if complete else _escaped(self._newline))


def _escaped(text: str) -> str:
    return to_json(text)[1:-1]
