"""Llama 3's tool calls: bare JSON, or JSON after ``<|python_tag|>``."""

from vgate.frontend.parsing.json_call import JsonToolParser
from vgate.frontend.parsing.reader import Steps


class Llama3JsonToolParser(JsonToolParser):
    """Reads ``{"name": ..., "parameters": {...}}``, and more of them after ``;``.

    Without the tag a call must come first in the text and name one of the tools; nothing else
    distinguishes it from an answer that happens to be JSON.
    """

    needs_special_tokens = True
    # The second is a key of a JSON object, in a template's plain text or in a quoted string.
    template_signs = (r"<\|start_header_id\|>", r'"parameters\\?"\s*:')
    markers = ("<|python_tag|>",)
    ends_of_turn = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
    _tagged = False

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
