"""Qwen3-Coder's tool calls: a function's parameters as tags, with plain text in them."""

from __future__ import annotations

import re
from typing import Any

from vgate.frontend.parsing.incremental import Markers, Sink, Steps
from vgate.frontend.parsing.json_text import to_json
from vgate.frontend.parsing.schema_values import types_of, value_of
from vgate.frontend.parsing.tool_parser import ToolParser

_CALL_BEGIN = "<tool_call>"
_CALL_END = "</tool_call>"
_FUNCTION_BEGIN = "<function="
_FUNCTION_END = "</function>"
_PARAMETER_BEGIN = "<parameter="
_PARAMETER_END = "</parameter>"
_IN_FUNCTION = Markers(_PARAMETER_BEGIN, _FUNCTION_END, _CALL_END, _CALL_BEGIN, _FUNCTION_BEGIN)
# A value ends here too where its own end was forgotten.
_AFTER_VALUE = Markers(_PARAMETER_END, _PARAMETER_BEGIN, _FUNCTION_END)
_AFTER_FUNCTION = Markers(_CALL_END)
_NAME = re.compile(r"[^<>\s]")
_PARAMETER_NAME = re.compile(r"[^<>\n]")
_MAX_NAME_CHARS = 256


class Qwen3CoderToolParser(ToolParser):
    """Reads ``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``.

    A newline after a parameter's tag and one before its end belong to the tags. A value is what the
    tool's schema makes of it, and text where it doesn't say. Text streams; other values are told
    when they are complete, or at the end of the text as they stand. In a function, text outside the
    parameters is content. ``<tool_call>`` and all end tags may be missing.
    """

    markers = (_CALL_BEGIN, _FUNCTION_BEGIN)

    @staticmethod
    def fits(template: str) -> bool:
        """Whether a chat template shows that its model writes calls in this format."""
        return all(tag in template for tag in (_CALL_BEGIN, _FUNCTION_BEGIN, "<parameter="))

    def _read_calls(self, marker: str) -> Steps[bool]:
        while marker:
            if marker == _CALL_BEGIN:
                yield from self._reader.spaces()
                if not (yield from self._reader.match(_FUNCTION_BEGIN)):
                    return False
            name = yield from self._reader.word(_NAME, _MAX_NAME_CHARS)
            if not name or not (yield from self._reader.match(">")):
                return False
            self._begin_call(name)
            marker = yield from self._read_parameters(name)
        return True

    def _read_parameters(self, function: str) -> Steps[str]:
        """Read up to the function's end; return the marker of a call that follows, recorded."""
        reader = self._reader
        self._argue("{")
        marker, clean, separator = "", True, ""
        while True:
            if not marker:
                marker = yield from self._next_marker(_IN_FUNCTION, clean=clean)
            if marker != _PARAMETER_BEGIN:
                return (yield from self._end_function(marker))
            key = yield from reader.word(_PARAMETER_NAME, _MAX_NAME_CHARS)
            clean = bool(key) and (yield from reader.match(">"))
            if clean:
                reader.accept()
                self._argue(f"{separator}{to_json(key)}: ")
                separator = ", "
                marker = yield from self._read_value(types_of(self._schema_of(function, key)))
            else:
                self._say(reader.rejected())
                marker = ""

    def _end_function(self, marker: str) -> Steps[str]:
        """Close the arguments, unless the text ended; return the marker if a call follows it."""
        if not marker:
            return ""
        self._argue("}")
        if marker in self.markers:
            return marker
        self._reader.accept()
        if marker == _FUNCTION_END:
            yield from self._skip_marker(_AFTER_FUNCTION)
        return ""

    def _read_value(self, types: set[str]) -> Steps[str]:
        """Read a parameter's value; return the marker that ended it, recorded, if not its own."""
        reader = self._reader
        yield from reader.match("\n")
        if types == {"string"}:
            text = _TextValue(self._argue)
            marker = yield from reader.until(_AFTER_VALUE, text.write)
            text.end(complete=bool(marker))
        else:
            parts: list[str] = []
            marker = yield from reader.until(_AFTER_VALUE, parts.append)
            value = "".join(parts)
            self._argue(to_json(value_of(value.removesuffix("\n"), types)) if marker else value)
        if marker in ("", _PARAMETER_END):
            return ""
        reader.record(marker)
        return marker

    def _schema_of(self, function: str, key: str) -> Any:
        parameters = self._tools.get(function, {}).get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        return properties.get(key) if isinstance(properties, dict) else None


class _TextValue:
    """Tells text as a JSON string while it comes, less one newline at its end."""

    __slots__ = ("_newline", "_tell")

    def __init__(self, tell: Sink) -> None:
        self._tell = tell
        self._newline = ""
        tell('"')

    def write(self, text: str) -> None:
        """Tell more."""
        text = self._newline + text
        self._newline = "\n" if text.endswith("\n") else ""
        self._tell(_escaped(text.removesuffix("\n")))

    def end(self, *, complete: bool) -> None:
        """Close the string, or leave it open as the text left it."""
        self._tell('"' if complete else _escaped(self._newline))


def _escaped(text: str) -> str:
    return to_json(text)[1:-1]
