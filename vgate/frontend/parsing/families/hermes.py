"""Hermes' tool calls, also used by Qwen2.5 and Qwen3: JSON between two tags."""

from __future__ import annotations

import re

from vgate.frontend.parsing.incremental import Markers, Steps
from vgate.frontend.parsing.json_call import JsonToolParser

_END = Markers("</tool_call>")
# Other families put something else between Hermes' tags: GLM, Hunyuan.
_OTHER_TAGS = ("<arg_key>", "<tool_sep>", "<tool_calls>")
# A key of a JSON object, in a template's plain text or in a quoted string of it.
_ARGUMENTS_KEY = re.compile(r'\\?"arguments\\?"')


class HermesToolParser(JsonToolParser):
    """Reads ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.

    The end tag may be missing. A tag inside a JSON string is text.
    """

    markers = ("<tool_call>",)

    @staticmethod
    def fits(template: str) -> bool:
        """Whether a chat template shows that its model writes calls in this format."""
        return (
            "<tool_call>" in template
            and _ARGUMENTS_KEY.search(template) is not None
            and not any(tag in template for tag in _OTHER_TAGS)
        )

    def _read_calls(self, marker: str) -> Steps[bool]:
        yield from self._reader.spaces()
        called = yield from self._read_json_call()
        if called:
            yield from self._skip_marker(_END)
        return called
