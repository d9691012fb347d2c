"""Hermes' tool calls, which Qwen2.5 and Qwen3 use too: JSON between two tags."""

from __future__ import annotations

from vgate.frontend.parsing.incremental import Markers, Steps
from vgate.frontend.parsing.json_call import JsonToolParser

_END = Markers("</tool_call>")


class HermesToolParser(JsonToolParser):
    """Reads ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.

    The end tag may be missing. What is in a JSON string is no tag.
    """

    markers = ("<tool_call>",)

    def _read_calls(self, marker: str) -> Steps[bool]:
        yield from self._reader.spaces()
        called = yield from self._read_json_call()
        if called:
            yield from self._skip_marker(_END)
        return called
