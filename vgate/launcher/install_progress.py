"""What is shown of an installation: a line per phase, and what matters of pip's output.

Like `environment` it runs before anything is installed: standard library, Python 3.8 and later.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

REFRESH_S = 0.2
# Where lines cannot be rewritten, a sign of life this often.
PLAIN_EVERY_S = 5
LINES_SHOWN = 12

# pip says this for every package where it is configured with a folder as an index: no problem.
_NOISE = re.compile(r"is ignored: it is neither a file nor a directory|^\[notice\]")
_ACTIVITY = re.compile(
    r"^\s*(Collecting|Downloading|Using cached|Processing|Building wheel for|Installing)\s+(.+)"
)
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|connection broken|Read timed out|ProxyError|SSLError"
    r"|[Nn]ame or service not known|name resolution|Network is unreachable"
)


class Phase:
    """One phase of the work: a line that is kept alive until the phase ends.

    On a terminal the line is rewritten in place; elsewhere a new one appears now and then.
    """

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = sys.stderr if stream is None else stream
        self.in_place = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.started = self.shown = time.monotonic()

    def __enter__(self) -> Phase:
        self._write(f"{self.title} ...")
        return self

    def tick(self, detail: str = "") -> None:
        """Call this often while the phase runs."""
        now = time.monotonic()
        if now - self.shown < (REFRESH_S if self.in_place else PLAIN_EVERY_S):
            return
        self.shown = now
        elapsed = f"{now - self.started:.0f} s"
        self._write(f"{self.title} ... {elapsed}" + (f", {detail}" if detail else ""))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        outcome = "done in" if kind is None else "failed after"
        self._write(f"{self.title}: {outcome} {time.monotonic() - self.started:.1f} s")
        if self.in_place:
            print(file=self.stream, flush=True)

    def _write(self, text: str) -> None:
        text = "vgate: " + text
        if self.in_place:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)


def latest_activity(log: str) -> str:
    """What pip is doing, from the end of its log: "downloading granian-2.8.7 (6.1 MB)"."""
    for line in reversed(log.splitlines()):
        match = _ACTIVITY.match(line)
        if match is None:
            continue
        verb, rest = match.groups()
        if verb == "Installing":
            return "unpacking"
        rest = rest.partition(" (from ")[0]
        name, _, size = rest.partition(" (")
        name = os.path.basename(name.strip()).partition("-cp3")[0].partition("-py3")[0]
        return f"{verb.lower()} {name}" + (f" ({size}" if size else "")
    return ""


def lines_that_matter(log: str) -> list[str]:
    """The part of a failed command's output that says why it failed."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not _NOISE.search(line)]
    for number, line in enumerate(lines):
        if line.lstrip().lower().startswith("error"):
            return lines[number : number + LINES_SHOWN]
    return lines[-LINES_SHOWN:]


def advice(log: str, *, stopped: bool) -> str:
    """What a person can do about a failed pip."""
    if stopped:
        return "start again; if it was not you, the system may have run out of memory"
    if "No space left on device" in log:
        return "free some disk space and start again"
    if _UNREACHABLE.search(log):
        return "check the network, or the proxy (HTTPS_PROXY), and start again"
    if "No matching distribution found" in log:
        return (
            "pip reached no index that has this package for this Python and machine; "
            "`pip config list` says where it looks"
        )
    return "read the log, and start again"
