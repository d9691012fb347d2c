"""Output that a grammar forced to be tool calls (`tool_choice`), so there are no markers."""

from __future__ import annotations

from typing import Any

from vgate.frontend.parsing.incremental import IncrementalParser, Markers, Steps
from vgate.frontend.parsing.json_call import JsonToolParser

_NONE = Markers()


class NamedCall(IncrementalParser):
    """Takes all text for the arguments of one call; no text is no call.

    Attributes:
        called: Whether there was text.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.called = False

    def _run(self) -> Steps[None]:
        yield from self._reader.until(_NONE, self._emit_arguments)

    def _emit_arguments(self, text: str) -> None:
        self._add_to_call(0, None if self.called else self._name, text)
        self.called = True


class RequiredCalls(JsonToolParser):
    """Reads ``[{"name": ..., "parameters": {...}}, ...]``; what follows the list is content."""

    def __init__(
        self, tools: list[dict[str, Any]] | None = None, *, first_call_only: bool = False
    ) -> None:
        super().__init__(tools or [], first_call_only=first_call_only)

    def _read_opening(self) -> Steps[bool]:
        self._reader.record()
        yield from self._reader.spaces()
        return (yield from self._read_json_list())
