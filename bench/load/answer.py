"""One request's answer while it arrives: its times, its content and its errors."""

from http import HTTPStatus

import msgspec

from bench.load.events import (
    Choice,
    EventSplitter,
    Usage,
    error_message,
    is_plain_chunk,
    read_chunk,
)
from bench.load.histogram import Histogram

_MAX_ERROR_BODY_BYTES = 4096

# The kinds of failure; an HTTP status other than 200 is `http_<status>`.
REFUSED = "connect_refused"
CONNECT = "connect_failed"
CUT = "cut"
TIMEOUT = "timeout"
BAD_HTTP = "bad_http"
BAD_JSON = "bad_json"
NOT_A_STREAM = "not_a_stream"
ERROR_EVENT = "error_event"
ERROR_BODY = "error_body"
INCOMPLETE = "incomplete"


class Answer:
    """The response to one request. This base class keeps the body; times are in seconds.

    The connection calls `head`, then `feed` with the body as it comes, then exactly one of
    `end`, `cut` and `fail`. The first error found is the one that counts.
    """

    __slots__ = ("body", "detail", "ended", "error", "first", "started", "status")

    def __init__(self, started: float) -> None:
        self.started = started
        self.status = 0
        self.error: str | None = None
        self.detail = ""
        self.first = 0.0
        self.ended = 0.0
        self.body = b""

    def head(self, status: int, content_type: bytes) -> None:
        """Take the response's status and type."""
        del content_type
        self.status = status
        if status != HTTPStatus.OK:
            self.error = f"http_{status}"

    def feed(self, data: bytes, now: float) -> None:
        """Take a piece of the body."""
        del now
        if self.error is None or len(self.body) < _MAX_ERROR_BODY_BYTES:
            self.body += data  # kept whole, or as much as an error's message may take

    def take_plain(self, data: bytes, now: float) -> bool:
        """Take a read that needs no parser; return whether this is one."""
        del data, now
        return False

    def end(self, now: float) -> None:
        """Record that the HTTP response is complete."""
        self.ended = now
        if self.error is not None and not self.detail:
            self.detail = error_message(self.body)

    def cut(self, reason: str, now: float) -> None:
        """Record that the connection ended before the response did."""
        self.fail(CUT, reason)
        self.ended = now

    def fail(self, kind: str, detail: str) -> None:
        """Record an error, unless there was one before."""
        if self.error is None:
            self.error = kind
            self.detail = detail


class CompletionAnswer(Answer):
    """A whole answer of a completion endpoint: complete if each choice has a finish reason."""

    __slots__ = ("chunks", "expected", "finished", "text", "usage")

    def __init__(self, started: float, expected: int, text: dict[int, list[str]] | None) -> None:
        """Expect that many choices; collect their texts by index where `text` is a dict."""
        super().__init__(started)
        self.expected = expected
        self.text = text
        self.chunks = 0
        self.finished = 0
        self.usage: Usage | None = None

    def end(self, now: float) -> None:
        """Decode the body."""
        super().end(now)
        if self.error is not None:
            return
        try:
            chunk = read_chunk(self.body)
        except msgspec.DecodeError as error:
            self.fail(BAD_JSON, str(error))
            return
        if chunk.failed:
            self.fail(ERROR_BODY, error_message(self.body))
        self.usage = chunk.usage
        for choice in chunk.choices:
            self._choice(choice)
        self._check_finished()
        self.body = b""

    def _choice(self, choice: Choice) -> bool:
        """Take one choice of a chunk or body; return whether it has content."""
        if choice.finish_reason is not None:
            self.finished += 1
        delta = choice.delta
        content = choice.text if delta is None else delta.content  # nearly always it is here
        if not content and not (content := choice.other_content):
            return False
        if self.text is not None:
            self.text.setdefault(choice.index, []).append(content)
        return True

    def _check_finished(self) -> None:
        if self.finished != self.expected:
            self.fail(INCOMPLETE, f"{self.finished} of {self.expected} choices have finished")

    def digest(self) -> tuple[str, ...]:
        """Return the texts of the choices, in order."""
        return tuple("".join(self.text[index]) for index in sorted(self.text or ()) if self.text)


class StreamAnswer(CompletionAnswer):
    """A streamed answer of a completion endpoint: complete if it has `[DONE]` as well."""

    __slots__ = ("_done", "_events", "_gaps", "_last")

    def __init__(
        self, started: float, expected: int, text: dict[int, list[str]] | None, gaps: Histogram
    ) -> None:
        """Record the gaps between content chunks in `gaps` as they happen."""
        super().__init__(started, expected, text)
        self._gaps = gaps
        self._events = EventSplitter()
        self._last = 0.0
        self._done = False

    def head(self, status: int, content_type: bytes) -> None:
        """Take the status and type, which must be that of an event stream."""
        super().head(status, content_type)
        if not content_type.startswith(b"text/event-stream"):
            self.fail(NOT_A_STREAM, f"content-type: {content_type.decode('latin-1')}")

    def take_plain(self, data: bytes, now: float) -> bool:
        """Count a chunk with plain text, once there was a first one, where no text is compared."""
        plain = self._last and self.text is None and self.expected == 1 and not self._done
        if not plain or self.error is not None or not is_plain_chunk(data):
            return False
        self.chunks += 1
        self._gaps.add(now - self._last)
        self._last = now
        return True

    def feed(self, data: bytes, now: float) -> None:
        """Take a piece of the stream that arrived at that time."""
        if self.error is not None:
            super().feed(data, now)
            return
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self._done = True
                self.ended = now
            elif not self._done:
                self._event(event, now)

    def _event(self, event: bytes, now: float) -> None:
        try:
            chunk = read_chunk(event)
        except msgspec.DecodeError as error:
            self.fail(BAD_JSON, str(error))
            return
        if self._events.named_error or (not chunk.choices and chunk.failed):
            self.fail(ERROR_EVENT, error_message(event))
            return
        if chunk.usage is not None:
            self.usage = chunk.usage
        for choice in chunk.choices:
            if not self._choice(choice):
                continue
            self.chunks += 1
            if self._last:
                self._gaps.add(now - self._last)
            else:
                self.first = now
            self._last = now

    def end(self, now: float) -> None:
        """Check the stream, whose HTTP response is complete."""
        if self._done and self.error is None:
            self._check_finished()
            return
        if self.error is None:
            self.fail(CUT, "the stream ended without [DONE]")
        Answer.end(self, now)
