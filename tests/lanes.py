"""Runs lanes of bin/test: some at a time, each as a process whose output is shown in one piece.

As bin/test, this needs only Python 3.8 and the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Callable, Sequence

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
POLL_S = 0.1
# An interrupted pytest ends its servers first.
INTERRUPTED_S = 30


class Row:
    """One row of the summary."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcome = SKIPPED
        self.reason = ""
        self.started = time.monotonic()
        self.seconds = 0.0

    def end(self, outcome: str, reason: str = "") -> Row:
        self.outcome, self.reason = outcome, reason
        self.seconds = time.monotonic() - self.started
        return self

    def not_run(self, problem: Exception, *, required: bool) -> Row:
        """Ends a lane that can't run here."""
        print(f"test: {problem}", file=sys.stderr)
        reason = str(problem).partition("\n")[0]
        return self.end(FAILED if required else SKIPPED, f"not run: {reason}")

    def __str__(self) -> str:
        row = f"{self.name:<16} {self.outcome:<8} {self.seconds:7.1f} s"
        return row + (f"  {self.reason}" if self.reason else "")


def announce(name: str) -> Row:
    print(f"\n--- {name} ---", flush=True)
    return Row(name)


def save(rows: Sequence[Row], path: str) -> None:
    """Writes the rows of a lane where the process that started it looks for them."""
    Path(path).write_text(json.dumps([vars(row) for row in rows]), encoding="utf-8")


class _Started:
    """A lane that runs, or has run, with its output and its rows in files."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        self.row = Row(name)
        self.rows: list[Row] = []
        self.ended = False
        self._report = directory / (name + ".json")
        log = directory / (name + ".log")
        with log.open("w") as output:
            # In a session of its own: Ctrl-C on the terminal reaches it once, through `interrupt`.
            self.process = subprocess.Popen(
                [*command, "--report", str(self._report)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._output = log.open(encoding="utf-8", errors="replace")

    def poll(self) -> None:
        """Reads its rows if it has ended."""
        if self.ended or self.process.poll() is None:
            return
        self.ended = True
        try:
            for values in json.loads(self._report.read_text(encoding="utf-8")):
                self.rows.append(Row(values["name"]))
                vars(self.rows[-1]).update(values)
        except (OSError, ValueError):
            self.rows = [self.row.end(FAILED, f"its process ended with {self.process.returncode}")]

    def show(self, out: IO[str]) -> None:
        """Copies what it has printed since the last call."""
        out.write(self._output.read())
        out.flush()

    def interrupt(self) -> None:
        """Interrupts it and all that it started, as Ctrl-C does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)

    def close(self, deadline: float) -> None:
        """Waits for its end; kills all of it at the deadline, or at another Ctrl-C."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # Servers that tests start have sessions, and so groups, of their own.
            for pid in [*_descendants(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self._output.close()


def _descendants(pid: int) -> list[int]:
    """Returns what a process has started, directly or not, and still runs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = children.get(pid, [])
    for child in found:
        found += children.get(child, [])
    return found


def run_lanes(
    names: Sequence[str],
    command: Callable[[str], Sequence[str]],
    *,
    at_once: int,
    out: IO[str] = sys.stdout,
) -> list[Row]:
    """Runs lanes, at most `at_once` at a time in this order, and returns their rows.

    The output of the first one that has not ended is shown as it comes, that of each other one
    after it. However this ends, no lane is left running.
    """
    waiting, started, shown = list(names), [], 0
    with tempfile.TemporaryDirectory(prefix="vgate-test-") as directory:
        try:
            while waiting or shown < len(started):
                running = [lane for lane in started if not lane.ended]
                while waiting and len(running) < at_once:
                    name = waiting.pop(0)
                    running.append(_Started(name, command(name), Path(directory)))
                    started.append(running[-1])
                time.sleep(POLL_S)
                for lane in running:
                    lane.poll()
                started[shown].show(out)
                shown += started[shown].ended
        finally:
            for lane in started:
                lane.interrupt()
            deadline = time.monotonic() + INTERRUPTED_S
            for lane in started:
                lane.close(deadline)
    return [row for lane in started for row in lane.rows]
