"""A child process that the launcher supervises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from vgate.launcher.restarts import RestartPolicy


class Child:
    """One supervised process, across restarts.

    Args:
        name: For people and logs.
        command: The arguments of the Python interpreter.
        policy: Decides when a restart follows a death.
        environment: Environment variables that it gets in addition to the launcher's.

    Attributes:
        ready: It has reported that it works.
        last_beat: Monotonic time of its last message.
        cause: Why it ends, as it reported.
        ending_since: Monotonic time at which it reported that it ends.
        permanent: It has reported that a restart would fail in the same way.
        restart_at: Monotonic time of its next start while it is down; None if it runs, or if it
            isn't restarted any more.
        restarts: Starts after the first.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        policy: RestartPolicy,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._policy = policy
        self._environment = environment or {}
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
        """Start it in a session of its own, so that Ctrl-C reaches only the launcher."""
        self._process = subprocess.Popen(
            [sys.executable, *self._command, "--parent", str(os.getpid())],
            env={**os.environ, **self._environment},
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
        """Return why it died, once after each death; None if it hasn't died.

        Sets `restart_at`; that is None if it died too often or reported a permanent failure.
        """
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self._end_group()
        self._process = None
        self.ready = False
        delay_s = None if self.permanent else self._policy.next_delay_s(now)
        self.restart_at = None if delay_s is None else now + delay_s
        return self.cause or _describe(status)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and the processes that it started."""
        if self._process is not None:
            self._end_group()
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; return False if it still runs after `timeout_s`."""
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
        """Kill its process group: vLLM's executors start worker processes of their own."""
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
