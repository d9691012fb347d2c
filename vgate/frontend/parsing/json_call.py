"""Tool calls that are JSON objects: ``{"name": ..., "arguments": ...}``."""

import msgspec

from vgate.frontend.parsing.json_text import ValueScan, is_json_object, read_string
from vgate.frontend.parsing.reader import Steps
from vgate.frontend.parsing.tool_parser import ToolParser

_ARGUMENTS = ("arguments", "parameters")
# Members that may follow the arguments. Models add the first two; some put the name last.
_FOLLOWING = ("id", "type", "name")


class _JsonCall(msgspec.Struct):
    """The state of a call while its object is read.

    Attributes:
        name: Its name, once that was read.
        held: Arguments that came before the name, or in quotes.
        begun: Whether its beginning was emitted.
        bare: Whether its members may be those of a call without arguments.
    """

    name: str | None = None
    held: str | None = None
    begun: bool = False
    bare: bool = True


class JsonToolParser(ToolParser):
    """Reads calls that are JSON objects, alone or in a list.

    ``parameters`` is an alias of ``arguments``; a call without either has no arguments. Members
    come in any order. Unknown members before the arguments are dropped; after the arguments they
    are content, because a misplaced bracket put the text there. Arguments that are a string with an
    object in it are emitted as that object.
    """

    def _read_json_list(self) -> Steps[bool]:
        """Read ``[call, ...]``; returns as `_read_calls` does."""
        reader = self._reader
        if not (yield from reader.match("[")):
            return False
        while True:
            yield from reader.spaces()
            if not (yield from self._read_json_call()):
                return False
            reader.record()
            yield from reader.spaces()
            if (yield from reader.match("]")):
                reader.accept()
                return True
            if not (yield from reader.match(",")):
                return True

    def _read_json_call(self) -> Steps[bool]:
        """Read one call; returns as `_read_calls` does, with at most whitespace in the record."""
        reader = self._reader
        call = _JsonCall()
        complete = yield from self._read_members(call)
        if complete and not call.begun and call.name is not None and call.bare:
            self._begin(call, "{}")
        elif call.begun and complete:
            reader.accept()
        elif call.begun:
            rest = reader.rejected()
            if rest.strip():
                self._emit_content(rest)
            else:
                reader.record(rest)
        return call.begun

    def _read_members(self, call: _JsonCall) -> Steps[bool]:
        """Read an object; return whether it is complete."""
        reader = self._reader
        if not (yield from reader.match("{")):
            return False
        while True:
            yield from reader.spaces()
            key = yield from self._read_string()
            if key is None or (call.begun and key not in _FOLLOWING):
                return False
            yield from reader.spaces()
            if not (yield from reader.match(":")):
                return False
            yield from reader.spaces()
            if not (yield from self._read_member(call, key)):
                return False
            yield from reader.spaces()
            if (yield from reader.match("}")):
                return True
            if not (yield from reader.match(",")):
                return False

    def _read_member(self, call: _JsonCall, key: str) -> Steps[bool]:
        """Read a member's value; return whether the call is still valid."""
        if key == "name" and call.name is None:
            call.name = yield from self._read_string()
            if not call.name or not self._knows(call.name):
                return False
        elif key in _ARGUMENTS and call.held is None:
            if not (yield from self._read_arguments(call)):
                return False
        else:
            call.bare &= key in _FOLLOWING
            return (yield from self._reader.scan(ValueScan(), _ignore))
        if call.name is not None and call.held is not None:
            self._begin(call, call.held)
            self._reader.record()
        return True

    def _read_arguments(self, call: _JsonCall) -> Steps[bool]:
        """Emit the arguments if the call can begin, or hold them; return whether they are valid."""
        first = yield from self._reader.peek()
        if first in ("", ",", ":", "}", "]"):
            return False
        if call.name is not None and first != '"':
            self._begin(call)
            ended = yield from self._reader.scan(ValueScan(), self._emit_arguments)
            self._reader.record()
            return ended
        parts: list[str] = []
        if not (yield from self._reader.scan(ValueScan(), parts.append)):
            return False
        call.held = _without_quotes("".join(parts))
        return True

    def _read_string(self) -> Steps[str | None]:
        """Read a string; return None if something else comes next."""
        if (yield from self._reader.peek()) != '"':
            return None
        parts: list[str] = []
        yield from self._reader.scan(ValueScan(), parts.append)
        return read_string("".join(parts))

    def _begin(self, call: _JsonCall, arguments: str = "") -> None:
        assert call.name is not None
        self._begin_call(call.name)
        self._emit_arguments(arguments)
        call.begun = True

    def _knows(self, name: str) -> bool:
        """Return whether a tool of this name may be called; any may after a clear marker."""
        return True


def _without_quotes(arguments: str) -> str:
    """Return the object that a string holds; other arguments unchanged."""
    if not arguments.startswith('"'):
        return arguments
    text = read_string(arguments)
    return arguments if text is None or not is_json_object(text) else text


def _ignore(text: str) -> None:
    """Drop text that is recorded or not needed."""
