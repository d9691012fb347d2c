"""A small HTTP/2 client: several requests on one connection, and taking one back.

Frames are written as RFC 9113 has them, header fields as literals that no table remembers (RFC
7541, 6.2.2). Requests must be short, because it never waits for a window.
"""

import socket
import struct
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_CANCEL = 8
# The static table's ":status: 200".
_STATUS_200 = 0x88


class Http2:
    """A connection with prior knowledge; a context manager."""

    def __init__(self, port: int, timeout_s: float = 30) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._file = self._socket.makefile("rb")
        self._next = 1
        self._bodies: dict[int, bytes] = {}
        self._ended: set[int] = set()
        # Of the streams whose status is 200.
        self.succeeded: set[int] = set()

    def __enter__(self) -> Self:
        # A window that no test fills: SETTINGS_INITIAL_WINDOW_SIZE, and the connection's.
        wide = 1 << 30
        try:
            self._socket.sendall(_PREFACE)
            self._send(_SETTINGS, 0, 0, struct.pack(">HI", 4, wide))
            self._send(_WINDOW_UPDATE, 0, 0, struct.pack(">I", wide))
        except OSError:  # the server speaks no HTTP/2
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()
        self._socket.close()

    def request(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request; return its stream."""
        stream, self._next = self._next, self._next + 2
        names = {":method": method, ":scheme": "http", ":path": path, ":authority": "localhost"}
        fields = b"".join(
            b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())
            for name, value in names.items()
        )
        end = 0 if body else _END_STREAM
        self._send(_HEADERS, _END_HEADERS | end, stream, fields)
        if body:
            self._send(_DATA, _END_STREAM, stream, body)
        return stream

    def cancel(self, stream: int) -> None:
        """Take a request back and keep the connection."""
        self._send(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))

    def body(self, stream: int) -> bytes:
        """Wait for the end of a response; return its body."""
        while stream not in self._ended:
            self.receive()
        return self._bodies.pop(stream)

    def receive(self) -> tuple[int, bytes]:
        """Read a frame; return its stream and its data, if it has some."""
        head = self._file.read(9)
        assert len(head) == 9, "the server closed the connection"
        length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], head[5:]
        number, payload = int.from_bytes(stream), self._file.read(length)
        assert kind != _RST_STREAM, f"the server reset stream {number}"
        if kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._send(kind, _ACK, 0, payload if kind == _PING else b"")
        if kind == _HEADERS and _STATUS_200 in payload[:2]:
            self.succeeded.add(number)
        if kind in {_DATA, _HEADERS}:
            data = payload if kind == _DATA else b""
            self._bodies[number] = self._bodies.get(number, b"") + data
            if flags & _END_STREAM:
                self._ended.add(number)
        return number, payload if kind == _DATA else b""

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._socket.sendall(head + payload)
