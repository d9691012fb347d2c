"""Server-sent events out of the pieces in which a connection delivers them."""

from collections.abc import Sequence


class EventSplitter:
    """Cuts a byte stream into the data of its events (WHATWG HTML, section 9.2).

    Lines may end in LF or CRLF; a bare CR, which no server of this kind sends, is not a line end.
    """

    __slots__ = ("_data", "_pending", "named_error")

    def __init__(self) -> None:
        self._pending = b""
        self._data: list[bytes] = []
        self.named_error = False  # an `event: error` line was seen

    @property
    def unfinished(self) -> bool:
        """Whether bytes of an event that has not ended are held."""
        return bool(self._pending or self._data)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Return the data of the events that end within these bytes, in order."""
        # Nearly every piece is one whole event of one line; it is recognised without a split.
        if (
            data.find(b"\n") == len(data) - 2
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and not self._pending
            and not self._data
        ):
            return (data[6:-2],)
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        events: list[bytes] = []
        for line in lines:
            self._take(line[:-1] if line.endswith(b"\r") else line, events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        elif line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line.startswith(b"event:") and line[6:].strip() == b"error":
            self.named_error = True
