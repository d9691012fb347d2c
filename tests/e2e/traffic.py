"""Clients of the e2e tests: a stream read on a thread, raw HTTP, and an engine probe."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx

from tests.e2e.instance import wait_until
from vgate.wire.codec import decode_to_frontend, encode
from vgate.wire.messages import PROTOCOL_VERSION, Goodbye, Hello, Status, ToFrontend, Welcome
from vgate.wire.sockets import Dealer

MODEL = "Qwen/Qwen2.5-1.5B-Instruct-AWQ"
CHAT = "/v1/chat/completions"
TIMEOUT_S = 60


def chat(text: str, **params: Any) -> dict[str, Any]:
    """Return the body of a chat request; the dry-run engine answers with `text`."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **params}


def endless(text: str = "on and on ", **params: Any) -> dict[str, Any]:
    """Return a request whose answer repeats `text` until `max_tokens` or the context's end."""
    return chat(text, ignore_eos=True, **params)


class Request(threading.Thread):
    """One request on a thread; streamed if its body says so.

    Attributes:
        status: HTTP status, once there is one.
        headers: Response headers.
        answer: Body of a response that is no stream.
        text: Text of a stream so far.
        error: Error event of a stream.
        finish_reason: As the stream told it.
        usage: As the stream told it.
        done: Whether [DONE] came.
        broken: The transport's error, if the connection broke.
        ended_at: Monotonic time of the end.
    """

    def __init__(self, url: str, body: dict[str, Any], key: str = "") -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, body
        self._key = {"Authorization": f"Bearer {key}"} if key else {}
        self.status: int | None = None
        self.headers: httpx.Headers = httpx.Headers()
        self.answer: dict[str, Any] = {}
        self.text = ""
        self.error: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.done = False
        self.broken: Exception | None = None
        self.ended_at = 0.0
        self.start()

    def run(self) -> None:
        try:
            with (
                httpx.Client(timeout=TIMEOUT_S, headers=self._key) as client,
                client.stream("POST", self._url + CHAT, json=self._body) as response,
            ):
                self.headers = response.headers
                self.status = response.status_code
                if "event-stream" in response.headers["content-type"]:
                    for line in response.iter_lines():
                        self._event(line)
                else:
                    self.answer = json.loads(response.read())
        except httpx.HTTPError as error:
            self.broken = error
        self.ended_at = time.monotonic()

    def _event(self, line: str) -> None:
        if not line or line == ": keep-alive":  # on a slow machine
            return
        assert line.startswith("data: "), line
        assert not self.done, "something came after [DONE]"
        if line == "data: [DONE]":
            self.done = True
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.error = event
            return
        for choice in event["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.finish_reason = choice["finish_reason"] or self.finish_reason
        self.usage = event.get("usage") or self.usage

    def wait_for_text(self) -> Self:
        """Wait for the start of the answer."""
        wait_until(lambda: self.text or not self.is_alive(), TIMEOUT_S, "the answer begins")
        assert self.text, (self.status, self.answer, self.broken)
        return self

    def wait(self, timeout_s: float = TIMEOUT_S) -> Self:
        """Wait for the end of the answer, or its failure."""
        self.join(timeout_s)
        assert not self.is_alive(), f"the request did not end within {timeout_s} s"
        return self


def raw(port: int, data: bytes, *, timeout_s: float = 10, half_close: bool = False) -> bytes:
    """Send bytes and return all that comes until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def post(body: bytes, *headers: bytes, path: bytes = CHAT.encode()) -> bytes:
    """Return the bytes of a POST on a new connection."""
    head = [
        b"POST %s HTTP/1.1" % path,
        b"Host: localhost",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def status_of(response: bytes) -> int:
    """Return the status of a raw response."""
    return int(response.split(b" ", 2)[1])


class EngineProbe:
    """Another frontend as far as the engine knows; it receives heartbeats."""

    def __init__(self, run_dir: Path, protocol: int = PROTOCOL_VERSION) -> None:
        self.dealer = Dealer(f"ipc://{run_dir}/engine-0.sock", "probe")
        self.send(Hello(protocol, "probe"))

    def send(self, message: Any) -> None:
        """Send a message, or raw bytes."""
        self.dealer.send(message if isinstance(message, bytes) else encode(message))

    def receive(self, timeout_s: float = 10) -> ToFrontend:
        """Return the next message."""
        payload = wait_until(self.dealer.receive, timeout_s, "a message of the engine")
        return decode_to_frontend(payload)

    def welcome(self) -> Welcome:
        """Return the answer to our hello."""
        message = self.receive()
        assert isinstance(message, Welcome)
        return message

    def status(self) -> Status:
        """Return a heartbeat that was sent after this call."""
        while self.dealer.receive() is not None:
            pass
        while not isinstance(message := self.receive(), Status):
            pass
        return message

    def wait_idle(self, timeout_s: float = 20) -> None:
        """Wait until the engine is idle."""
        wait_until(lambda: self.idle(self.status()), timeout_s, "the engine is idle")

    @staticmethod
    def idle(status: Status) -> bool:
        """Whether nothing runs, waits or holds KV cache."""
        return (status.running, status.waiting, status.kv_cache_usage) == (0, 0, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.send(Goodbye())
        self.dealer.close()
