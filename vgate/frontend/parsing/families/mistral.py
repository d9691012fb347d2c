"""Mistral's tool calls, in the formats of its older and newer tokenizers."""

from hashlib import blake2b

from vgate.frontend.ids import new_id
from vgate.frontend.parsing.json_call import JsonToolParser
from vgate.frontend.parsing.json_text import ValueScan
from vgate.frontend.parsing.reader import Steps


class MistralToolParser(JsonToolParser):
    """Reads ``[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`` and ``[TOOL_CALLS]name{...}``.

    A single object may come without a list; ``[CALL_ID]id`` and ``[ARGS]`` may follow the name.
    """

    needs_special_tokens = True
    template_signs = (r"\[TOOL_CALLS\]",)
    markers = ("[TOOL_CALLS]",)
    ends_of_turn = ("</s>",)

    @staticmethod
    def new_call_id() -> str:
        """Return nine letters and digits, which Mistral's templates require."""
        return blake2b(new_id("").encode(), digest_size=5).hexdigest()[:9]

    def _read_calls(self, marker: str) -> Steps[bool]:
        yield from self._reader.spaces()
        first = yield from self._reader.peek()
        if first == "[":
            return (yield from self._read_json_list())
        if first == "{":
            return (yield from self._read_json_call())
        return (yield from self._read_named_call())

    def _read_named_call(self) -> Steps[bool]:
        reader = self._reader
        name = yield from self._read_name()
        yield from reader.spaces()
        if (yield from reader.match("[CALL_ID]")):
            yield from self._read_name()
        yield from reader.match("[ARGS]")
        yield from reader.spaces()
        if not name or (yield from reader.peek()) != "{":
            return False
        self._begin_call(name)
        yield from reader.scan(ValueScan(), self._emit_arguments)
        return True
