"""A process that the launcher keeps running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from vgate.launcher.restarts import RestartPolicy


class Child:
    """One supervised process, over all its lives.

    Attributes:
        name: For people and logs.
        ready: It does its work now.
        last_beat: Monotonic time of its last sign of life.
        cause: What it said about its end.
        ending_since: Monotonic time at which it said that it ends.
        permanent: It said that a restart would end in the same way.
        restart_at: Monotonic time of its next start, while it is down.
        restarts: Starts after the first.
    """

    def __init__(self, name: str, command: list[str], policy: RestartPolicy) -> None:
        self.name = name
        self._command = command
        self._policy = policy
        self._process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.started_at = 0.0
        self.last_beat = 0.0
        self.cause: str | None = None
        self.ending_since: float | None = None
        self.permanent = False
        self.restart_at: float | None = 0.0
        self.restarts = -1

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self, now: float) -> None:
        """Start it, in a session of its own so that Ctrl-C reaches the launcher alone."""
        self._process = subprocess.Popen(
            [sys.executable, *self._command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.ready = False
        self.started_at = self.last_beat = now
        self.cause = None
        self.ending_since = None
        self.permanent = False
        self.restart_at = None
        self.restarts += 1

    def died(self, now: float) -> str | None:
        """Return why it died, once, if it has; then `restart_at` is set, or None to give up."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self._end_group()
        self._process = None
        self.ready = False
        delay_s = None if self.permanent else self._policy.next_delay_s(now)
        self.restart_at = None if delay_s is None else now + delay_s
        return self.cause or _describe(status)

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and what it started, at once."""
        if self._process is not None:
            self._end_group()
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if it still runs after `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._end_group()
        self._process = None
        return True

    def _end_group(self) -> None:
        """Kill what it left behind: vLLM's executors have worker processes of their own."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
