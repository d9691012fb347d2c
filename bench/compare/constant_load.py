"""A load for answers that are always the same: one request repeated, its answers compared by bytes.

It costs a third of the general load generator, which decodes every answer. With a server that
answers tens of thousands of requests a second the difference would show in the result.
"""

import selectors
import socket
from contextlib import ExitStack, closing
from time import perf_counter

from bench.load.histogram import Histogram

_RECEIVE_BYTES = 65_536
_TIMEOUT_S = 30.0
_HEAD_END = b"\r\n\r\n"


class WrongAnswerError(Exception):
    """An answer is not 200, or differs from the first one."""


class _Client:
    """One connection with one request in flight."""

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self.fileno = self._socket.fileno
        self.close = self._socket.close

    def send(self) -> None:
        self._received = b""
        self._expected_bytes = 0
        self.sent_at = perf_counter()
        self._socket.sendall(self._request)

    def receive(self) -> bytes | None:
        """Read what has arrived; return the answer once it is complete."""
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise WrongAnswerError("the connection was closed")
        self._received += data
        if not self._expected_bytes:
            self._expected_bytes = _length(self._received)
        complete = 0 < self._expected_bytes <= len(self._received)
        return self._received if complete else None


def _length(received: bytes) -> int:
    """Return the length of the whole answer, or 0 while its head is incomplete."""
    end = received.find(_HEAD_END)
    if end < 0:
        return 0
    head = received[:end].lower()
    start = head.find(b"content-length:")
    if not head.startswith(b"http/1.1 200") or start < 0:
        raise WrongAnswerError(f"not a 200 with Content-Length: {received[:300]!r}")
    return end + len(_HEAD_END) + int(head[start + 15 :].split(b"\r\n", 1)[0])


def request_bytes(port: int, path: str, body: bytes, api_key: str | None) -> bytes:
    """Return a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {api_key}"] if api_key else []
    lines += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def first_answer(port: int, request: bytes) -> bytes:
    """Return the body of the answer to one request."""
    with closing(_Client(port, request)) as client:
        client.send()
        while (answer := client.receive()) is None:
            pass
        return answer.partition(_HEAD_END)[2]


def constant_load(
    port: int, request: bytes, compared: bytes, *, clients: int, seconds: float
) -> tuple[Histogram, float]:
    """Repeat the request on that many connections; return the times and the seconds that passed.

    Every answer must end as `compared`.

    Raises:
        WrongAnswerError: An answer ends differently, or is not 200.
    """
    times = Histogram()
    with ExitStack() as stack, selectors.EpollSelector() as selector:
        crowd = [stack.enter_context(closing(_Client(port, request))) for _ in range(clients)]
        for client in crowd:
            selector.register(client, selectors.EVENT_READ, client)
        began = perf_counter()
        for client in crowd:
            client.send()
        while clients:
            ready = selector.select(_TIMEOUT_S)
            if not ready:
                raise WrongAnswerError(f"no answer within {_TIMEOUT_S:g} s")
            for key, _ in ready:
                client = key.data
                if (answer := client.receive()) is None:
                    continue
                now = perf_counter()
                times.add(now - client.sent_at)
                if not answer.endswith(compared):
                    raise WrongAnswerError(f"a different answer: {answer[:300]!r}")
                if now - began < seconds:
                    client.send()
                else:
                    clients -= 1
        return times, perf_counter() - began
