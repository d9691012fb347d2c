"""What a client has of a stream, and how long it tries to get the rest. Pure."""

import math
import time
from collections.abc import Iterator, Mapping

# A stream that is taken up elsewhere, a server that starts: soon, then less often.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# Answers that may be another one a moment later, as of a proxy whose server restarts.
PASSING = frozenset({429, 500, 502, 503, 504})


class Events:
    """Passes on whole server-sent events, so that a stream can go on after the last one.

    Comments are left out: after an event with an id, OpenAI's client takes one for an empty event.

    Attributes:
        last_id: The id of the last event that was passed on; None if none had one.
        is_lost: An event without an id was passed on, so nobody knows where the stream is.
        is_whole: The last event was passed on, by which chats and completions end.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.last_id: str | None = None
        self.is_lost = False
        self.is_whole = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the events that are whole now."""
        data = self._rest + data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return b""
        self._rest = data[end:]
        whole = []
        for event in data[: end - 2].split(b"\n\n"):
            while event.startswith(b":"):
                event = event.partition(b"\n")[2]  # noqa: PLW2901 - without a comment
            if event.startswith(b"id: "):
                self.last_id = event[4:].partition(b"\n")[0].decode()
            elif event:
                self.is_lost = True
            self.is_whole |= event.endswith(b"\ndata: [DONE]")
            if event:
                whole.append(event + b"\n\n")
        return b"".join(whole)

    def cut(self) -> bytes:
        """Drop and return the beginning of an event whose rest will not come."""
        rest, self._rest = self._rest, b""
        return rest

    def taking_up(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request for the rest, from those of the first one."""
        left_out = {"content-length", "content-type", "transfer-encoding"}
        kept = {name: value for name, value in headers.items() if name.lower() not in left_out}
        return {**kept, "last-event-id": self.last_id or ""}


def pauses(for_s: float) -> Iterator[float]:
    """Yield the seconds to wait before each attempt, until so many have passed."""
    deadline, pause_s = time.monotonic() + for_s, _FIRST_PAUSE_S
    while time.monotonic() + pause_s < deadline:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def kept_s(headers: Mapping[str, str]) -> float:
    """Return how long the server keeps a stream for its client; 0 if it doesn't."""
    if "content-encoding" in headers:
        return 0.0
    return _seconds(headers.get("x-vgate-resumable")) or 0.0


def wait_s(status: int, headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which the server wants the request again; None if it doesn't say."""
    return _seconds(headers.get("retry-after")) if status in (429, 503) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
