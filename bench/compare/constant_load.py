"""A load for answers that are always the same: one request over and over, compared by bytes.

It costs a third of what the general load generator does, which decodes every answer; beside a
server that answers tens of thousands of requests a second the difference would be in the result.
"""

import contextlib
import selectors
import socket
from time import perf_counter

import msgspec

from bench.load.histogram import Histogram

_RECEIVE_BYTES = 65_536
_TIMEOUT_S = 30.0
_HEAD_END = b"\r\n\r\n"


class WrongAnswerError(Exception):
    """An answer is not the one that came first."""


class ConstantResult(msgspec.Struct, frozen=True):
    """What came back; `times` are those of the answers, in seconds."""

    requests: int
    seconds: float
    times: Histogram


class _Client:
    """One connection with one request in flight."""

    __slots__ = ("_compared", "_received", "_request", "_sent_at", "_socket", "_wanted")

    def __init__(self, port: int, request: bytes, compared: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._compared = compared
        self._received = b""
        self._wanted = 0
        self._sent_at = 0.0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self) -> None:
        self._received = b""
        self._wanted = 0
        self._sent_at = perf_counter()
        self._socket.sendall(self._request)

    def receive(self) -> float | None:
        """Read what is there; return how long the answer took, once it is whole."""
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise WrongAnswerError("the connection was closed")
        self._received = self._received + data if self._received else data
        if not self._wanted:
            self._wanted = _length(self._received)
        if not self._wanted or len(self._received) < self._wanted:
            return None
        took_s = perf_counter() - self._sent_at
        if len(self._received) > self._wanted or not self._received.endswith(self._compared):
            raise WrongAnswerError(f"another answer came: {self._received[:300]!r}")
        return took_s


def _length(received: bytes) -> int:
    """Return the length of the whole answer, or 0 while its head is not whole."""
    end = received.find(_HEAD_END)
    if end < 0:
        return 0
    head = received[:end].lower()
    if not head.startswith(b"http/1.1 200"):
        raise WrongAnswerError(f"another answer came: {received[:300]!r}")
    start = head.find(b"content-length:")
    if start < 0:
        raise WrongAnswerError("the answer has no Content-Length")
    return end + len(_HEAD_END) + int(head[start + 15 :].split(b"\r\n", 1)[0])


def request_bytes(port: int, path: str, body: bytes, api_key: str | None) -> bytes:
    """Return a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {api_key}"] if api_key else []
    lines += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def first_answer(port: int, request: bytes) -> bytes:
    """Return the body of the answer to one request."""
    with contextlib.closing(_Client(port, request, b"")) as client:
        client.send()
        while client.receive() is None:
            pass
        return client._received.partition(_HEAD_END)[2]  # noqa: SLF001 - of this module


def constant_load(
    port: int, request: bytes, compared: bytes, *, clients: int, seconds: float
) -> ConstantResult:
    """Send the request over and over from that many connections.

    Args:
        port: Of the server, on 127.0.0.1.
        request: Head and body.
        compared: How every answer must end.
        clients: Connections, each with one request in flight.
        seconds: How long to send.

    Raises:
        WrongAnswerError: An answer ends differently, or is not 200.
    """
    times = Histogram()
    crowd = [_Client(port, request, compared) for _ in range(clients)]
    with contextlib.ExitStack() as stack, selectors.EpollSelector() as selector:
        for client in crowd:
            stack.callback(client.close)
            selector.register(client, selectors.EVENT_READ, client)
        started = perf_counter()
        for client in crowd:
            client.send()
        in_flight = clients
        requests = 0
        while in_flight:
            ready = selector.select(_TIMEOUT_S)
            if not ready:
                raise WrongAnswerError(f"no answer within {_TIMEOUT_S:g} s")
            for key, _ in ready:
                client = key.data
                took_s = client.receive()
                if took_s is None:
                    continue
                times.add(took_s)
                requests += 1
                if perf_counter() - started < seconds:
                    client.send()
                else:
                    in_flight -= 1
        return ConstantResult(requests, perf_counter() - started, times)
