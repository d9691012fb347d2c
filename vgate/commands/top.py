"""``vgate top``: the running requests of a server, live, with a key to stop one."""

import argparse
import contextlib
import os
import select
import shutil
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vgate.commands.command import CommandError
from vgate.commands.overview import Sample, overview
from vgate.commands.server import ApiError, Server, configure_server
from vgate.commands.status import interval
from vgate.commands.text import (
    BOLD,
    DIM,
    RED,
    REVERSE,
    Screen,
    cut,
    duration,
    is_terminal,
    latency,
    plain,
    styled,
    table,
)
from vgate.config import Config

_PATH = "/admin/requests"
_UP, _DOWN, _ESCAPE = "\x1b[A", "\x1b[B", "\x1b"
_HEAD = ("REQUEST", "KEY", "MODEL", "STATE", "AGE", "TTFT", "PROMPT", "CACHED", "TOKENS", "/S")
_LEFT = 4
_WIDE = 120  # characters
_LEAST_ROWS = 8
_HELP = "q ends, arrows choose a request, k stops it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        f"Show the engines and the running requests, live: {_HELP}. Without a terminal it prints "
        "them once. Where keys are required, it needs one with `admin: true`."
    )
    parser.add_argument(
        "--every", type=interval, default=1.0, metavar="S", help="seconds between updates (1)"
    )
    configure_server(parser)


def run(options: argparse.Namespace, config: Config) -> None:
    """Show them."""
    top = _Top(Server(options, config))
    top.look()
    if not (is_terminal() and sys.stdin.isatty()):
        sys.stdout.write("\n".join(top.lines()).rstrip() + "\n")
        return
    with _unbuffered_keys(), Screen() as screen, contextlib.suppress(KeyboardInterrupt):
        due = time.monotonic() + options.every
        while True:
            screen.show(top.lines(*shutil.get_terminal_size()))
            key = _key(max(0.0, due - time.monotonic()))
            if key == "q" and not top.asks:
                return
            if key:
                top.press(key)
            elif not top.asks:  # what is asked about stays in its place
                top.look()
                due = time.monotonic() + options.every


class _Top:
    """What is shown, and which request is chosen."""

    def __init__(self, server: Server) -> None:
        self.asks = False  # whether to stop the chosen request
        self._server = server
        self._now: Sample | None = None
        self._earlier: Sample | None = None
        self._requests: list[dict[str, Any]] = []
        self._speeds: dict[str, float] = {}
        self._chosen = ""
        self._message = ""

    def look(self) -> None:
        """Ask the server; what it can't say becomes the message, once there was an answer."""
        try:
            requests = self._server.objects(_PATH)
            sample = Sample.of(self._server)
        except CommandError as error:
            if self._now is None:
                raise
            self._message = str(error)
            return
        self._earlier, self._now = self._now, sample
        self._measure(requests)
        self._requests = sorted(requests, key=lambda request: -request["age_s"])
        if self._index() is None:
            self._chosen = self._requests[0]["id"] if self._requests else ""
            self.asks = False

    def press(self, key: str) -> None:
        """Take a key."""
        self._message = ""
        index = self._index()
        if self.asks:
            self.asks = False
            if key == "y":
                self._stop()
        elif index is None:
            self._message = "no request is running"
        elif key in (_UP, _DOWN):
            index += 1 if key == _DOWN else -1
            self._chosen = self._requests[max(0, min(index, len(self._requests) - 1))]["id"]
        elif key == "k":
            self.asks = True

    def lines(self, width: int = _WIDE, height: int = 10_000) -> list[str]:
        """Return the picture for a terminal of that size."""
        now = self._now
        head = overview(self._server, now, self._earlier) if now else []
        index = self._index() or 0
        title, *rows = table(
            [_HEAD, *(self._row(one, width) for one in self._requests)], left=_LEFT
        )
        # The limits of many keys, which come last, must not take all of the screen.
        head = head[: max(0, height - 5 - min(len(rows), _LEAST_ROWS))]
        room = max(1, height - len(head) - 5)
        first = max(0, min(index - room // 2, len(rows) - room))
        shown = [
            styled(row, REVERSE) if number == index and is_terminal() else row
            for number, row in enumerate(rows)
        ][first : first + room]
        if self.asks:
            foot = styled(f"stop {plain(self._chosen)}? y stops it, any other key does not", RED)
        else:
            foot = plain(self._message) or styled(_HELP if is_terminal() else "", DIM)
        return [*head, "", styled(title, BOLD), *(shown or ["no request is running"]), "", foot]

    def _index(self) -> int | None:
        ids = [request["id"] for request in self._requests]
        return ids.index(self._chosen) if self._chosen in ids else None

    def _stop(self) -> None:
        try:
            name = urllib.parse.quote(self._chosen, safe="")
            self._server.post(f"{_PATH}/{name}/cancel", {})
            self._message = f"{self._chosen} is stopped"
        except ApiError as error:
            self._message = str(error)

    def _measure(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Compute the tokens per second of each request since the last look."""
        before = {request["id"]: request for request in self._requests}
        self._speeds = {}
        for request in requests:
            old = before.get(request["id"])
            if old is not None and request["age_s"] > old["age_s"]:
                tokens = request["completion_tokens"] - old["completion_tokens"]
                self._speeds[request["id"]] = tokens / (request["age_s"] - old["age_s"])

    def _row(self, request: Mapping[str, Any], width: int) -> tuple[str, ...]:
        speed = self._speeds.get(request["id"])
        name, model = plain(request["id"]), plain(request["model"])
        if width < _WIDE:  # the ends of both tell more than their beginnings
            name, model = name[-12:], cut(model.rpartition("/")[2], 16)
        return (
            cut(name, 40),
            cut(plain(request["key"] or "-"), 16),
            cut(model, 40),
            plain(request["state"]),
            duration(request["age_s"]),
            latency(request["ttft_s"]),
            *(f"{request[name] or 0:,}" for name in _COUNTS),
            "-" if speed is None else f"{speed:.0f}",
        )


_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")


@contextlib.contextmanager
def _unbuffered_keys() -> Iterator[None]:
    """Have the terminal pass keys on at once, without showing them."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _key(timeout_s: float) -> str:
    """Return the key that is pressed within a time, or nothing."""
    terminal = sys.stdin.fileno()
    if not select.select([terminal], [], [], timeout_s)[0]:
        return ""
    pressed = os.read(terminal, 16).decode(errors="replace")
    if not pressed:  # the terminal is gone
        raise KeyboardInterrupt
    return pressed if pressed.startswith(_ESCAPE) else pressed[0]
