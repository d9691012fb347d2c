"""Hermes' tool calls, also used by Qwen2.5 and Qwen3: JSON between two tags."""

from vgate.frontend.parsing.json_call import JsonToolParser
from vgate.frontend.parsing.reader import Steps


class HermesToolParser(JsonToolParser):
    """Reads ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.

    The end tag may be missing. A tag inside a JSON string is text.
    """

    template_signs = (
        "<tool_call>",
        # A key of a JSON object, in a template's plain text or in a quoted string.
        r'"arguments\\?"',
        # Other families write something else between Hermes' tags: GLM, Hunyuan.
        r"(?s)\A(?!.*<(?:arg_key|tool_sep|tool_calls)>)",
    )
    markers = ("<tool_call>",)

    def _read_calls(self, marker: str) -> Steps[bool]:
        yield from self._reader.spaces()
        called = yield from self._read_json_call()
        if called:
            yield from self._skip("</tool_call>")
        return called
