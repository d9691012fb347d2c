"""Llama 3's tool calls: bare JSON, or JSON after ``<|python_tag|>``."""

from __future__ import annotations

import re
from typing import Any

from vgate.frontend.parsing.incremental import Steps
from vgate.frontend.parsing.json_call import JsonToolParser

# A key of a JSON object, in a template's plain text or in a quoted string of it.
_PARAMETERS_KEY = re.compile(r'\\?"parameters\\?"\s*:')


class Llama3JsonToolParser(JsonToolParser):
    """Reads ``{"name": ..., "parameters": {...}}``, and more of them after ``;``.

    Without the tag a call must come first in the text and name one of the tools; nothing else
    tells it from an answer that happens to be JSON.
    """

    needs_special_tokens = True
    markers = ("<|python_tag|>",)
    ends_of_turn = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")

    @staticmethod
    def fits(template: str) -> bool:
        """Whether a chat template shows that its model writes calls in this format."""
        header = "<|start_header_id|>" in template
        return header and _PARAMETERS_KEY.search(template) is not None

    def __init__(self, tools: list[dict[str, Any]], *, first_call_only: bool = False) -> None:
        super().__init__(tools, first_call_only=first_call_only)
        self._tagged = False

    def _read_opening(self) -> Steps[bool]:
        self._reader.record()
        yield from self._reader.spaces()
        if (yield from self._reader.peek()) != "{":
            return True
        return (yield from self._read_separated())

    def _read_calls(self, marker: str) -> Steps[bool]:
        self._tagged = True
        yield from self._reader.spaces()
        called = yield from self._read_separated()
        self._tagged = False
        return called

    def _read_separated(self) -> Steps[bool]:
        reader = self._reader
        while (yield from self._read_json_call()):
            reader.record()
            yield from reader.spaces()
            if (yield from reader.match(";")):
                yield from reader.spaces()
                if not (yield from reader.peek()):
                    reader.accept()
                    return True
            elif (yield from reader.peek()) != "{":
                return True
        return False

    def _knows(self, name: str) -> bool:
        return self._tagged or name in self._tools
