"""DeepSeek's tool calls, as V3 and R1 write them and as V3.1 does."""

from vgate.frontend.parsing.json_text import ValueScan
from vgate.frontend.parsing.reader import Steps
from vgate.frontend.parsing.tool_parser import ToolParser

_CALLS_BEGIN = "<｜tool▁calls▁begin｜>"  # noqa: RUF001 - DeepSeek's own bars
_CALLS_END = "<｜tool▁calls▁end｜>"  # noqa: RUF001
_CALL_BEGIN = "<｜tool▁call▁begin｜>"  # noqa: RUF001
_CALL_END = "<｜tool▁call▁end｜>"  # noqa: RUF001
_SEPARATOR = "<｜tool▁sep｜>"  # noqa: RUF001
_END_OF_TURN = "<｜end▁of▁sentence｜>"  # noqa: RUF001


class DeepSeekV3ToolParser(ToolParser):
    """Reads calls between ``tool▁calls▁begin`` and ``tool▁calls▁end``.

    A call is ``function``, the separator, the name and the arguments in a fenced block; since
    V3.1, the name, the separator and the bare arguments. End markers and outer markers may be
    missing.
    """

    needs_special_tokens = True
    template_signs = (_CALLS_BEGIN,)
    markers = (_CALLS_BEGIN, _CALL_BEGIN)
    ends_of_turn = (_END_OF_TURN,)

    def _read_calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        if marker == _CALLS_BEGIN:
            yield from reader.spaces()
            if not (yield from reader.match(_CALL_BEGIN)):
                return False
        while (yield from self._read_call()):
            marker = yield from self._skip(_CALL_BEGIN, _CALLS_END)
            if marker != _CALL_BEGIN:
                return True
            reader.record(marker)
        return False

    def _read_call(self) -> Steps[bool]:
        reader = self._reader
        name = yield from self._read_name()
        if not (yield from reader.match(_SEPARATOR)):
            return False
        yield from reader.spaces()
        if (yield from reader.peek()) != "{":
            name = yield from self._read_name()
            yield from reader.spaces()
            if not (yield from reader.match("```json")):
                return False
            yield from reader.spaces()
        if not name or (yield from reader.peek()) != "{":
            return False
        self._begin_call(name)
        if (yield from reader.scan(ValueScan(), self._emit_arguments)):
            yield from self._skip("```")
            yield from self._skip(_CALL_END)
        return True
