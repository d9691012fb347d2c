"""Parsers for output that a constraint forces to be tool calls: there are no markers to find."""

from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.json_call import JsonToolParser
from vgate.frontend.parsing.reader import NO_MARKERS, Steps


class NamedCall(OutputParser):
    """Reads all text as the arguments of one call. Empty text is no call.

    Attributes:
        called: Whether the call has begun.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.called = False

    def _run(self) -> Steps[None]:
        yield from self._reader.until(NO_MARKERS, self._emit_arguments)

    def _emit_arguments(self, text: str) -> None:
        self._add_to_call(0, None if self.called else self._name, text)
        self.called = True


class RequiredCalls(JsonToolParser):
    """Reads ``[{"name": ..., "parameters": {...}}, ...]``; text after the list is content."""

    def _read_opening(self) -> Steps[bool]:
        self._reader.record()
        yield from self._reader.spaces()
        return (yield from self._read_json_list())
