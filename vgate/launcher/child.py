"""The child processes that the launcher supervises, and when one that died is restarted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Literal

from vgate.config import Runtime, without_settings
from vgate.launcher import leftovers
from vgate.launcher.output import Output
from vgate.wire.control import EngineState

_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 30.0
_MOST_BETWEEN_CALLS_S = 0.5
_LAST_WORDS_S = 0.1


class JudgesClock:
    """Monotonic seconds that stand still while this process does.

    A process that is stopped, suspended or starved hears of nobody meanwhile, so it must not count
    that time as the silence of others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._now = 0.0

    def __call__(self) -> float:
        """Return the time. Ask for it several times a second."""
        last, self._last = self._last, self._clock()
        self._now += min(self._last - last, _MOST_BETWEEN_CALLS_S)
        return self._now


class RestartPolicy:
    """Exponential back-off that gives up after `max_restarts` deaths within `window_s`."""

    def __init__(self, max_restarts: int, window_s: float) -> None:
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._deaths: deque[float] = deque()

    def next_delay_s(self, now: float) -> float | None:
        """Count a death; return the seconds until the restart, or None to give up."""
        while self._deaths and self._deaths[0] <= now - self._window_s:
            self._deaths.popleft()
        self._deaths.append(now)
        if len(self._deaths) > self._max_restarts:
            return None
        return min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** (len(self._deaths) - 1))


class Child:
    """One supervised process, across restarts. Times are those of a `JudgesClock`.

    `command` has the arguments of Python, `environment` variables in addition to the launcher's.
    What it and its own children write goes to `output`, or to the launcher's streams if that is
    None. It inherits the descriptors `passed`.

    Attributes:
        ready: It has reported that it works.
        last_beat: When its last message came.
        cause: Why it ends, if known.
        ending_since: When it reported that it ends.
        permanent: It has reported that a restart would fail in the same way.
        restart_at: When to start it; None while it runs and after it was given up.
        restarts: Number of starts after the first; -1 before it.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        policy: RestartPolicy,
        environment: Mapping[str, str] | None = None,
        output: Output | None = None,
        passed: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self._command = command
        self._policy = policy
        self._environment = dict(environment or {})
        self._output = output
        self._passed = passed
        self._forwarding: Thread | None = None
        if output is not None:
            # Its lines and those that it prints stay in order.
            self._environment.setdefault("PYTHONUNBUFFERED", "1")
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = -1
        self._reset(0.0)
        self.restart_at: float | None = 0.0

    def _reset(self, now: float) -> None:
        self.ready = False
        self.started_at = self.last_beat = now
        self.cause: str | None = None
        self.ending_since: float | None = None
        self.permanent = False
        self.restart_at = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self, now: float) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only the launcher."""
        pipe = None
        if self._output is not None:
            pipe, self._forwarding = self._output.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, *self._command, "--parent", str(os.getpid())],
                env={**without_settings(os.environ), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
                pass_fds=self._passed,
            )
        finally:
            if pipe is not None:
                os.close(pipe)
        self._reset(now)
        self.restarts += 1

    def died(self, now: float) -> str | None:
        """Return why it died, once after each death; None if it hasn't died.

        Sets `restart_at`; that is None if it died too often or reported a permanent failure.
        """
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self.kill()
        self._process = None
        if self._forwarding is not None:
            self._forwarding.join(_LAST_WORDS_S)  # its last lines come before ours on its death
        self.ready = False
        delay_s = None if self.permanent else self._policy.next_delay_s(now)
        self.restart_at = None if delay_s is None else now + delay_s
        return self.cause or _describe(status)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def kill(self, cause: str | None = None) -> None:
        """Kill its process group: vLLM's executors start worker processes. `cause` says why."""
        if self._process is not None:
            self.cause = cause or self.cause
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; return False if it still runs after `timeout_s`."""
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            self.kill()
            self._process = None
        return True


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class EngineChild(Child):
    """The process of the engine with a number in `Runtime.engines`, and the engine's state.

    Attributes:
        prefix: What its phases begin with on the console, if there are several engines.
        state: The state that frontends were sent last.
        peer: The identity of its control link; None before its first message.
        patience_s: How long its step may take, as it says; None if it does not know.
    """

    def __init__(self, runtime: Runtime, number: int, output: Output | None = None) -> None:
        spec, name = runtime.engines[number], runtime.engine_name(number)
        command = command_of(runtime, "vgate.engine", "--engine", str(number))
        super().__init__(name, command, policy_of(runtime), spec.environment, output)
        self._number = number
        self._temporary = leftovers.link_of(runtime.run_dir, f"engine-{number}")
        self._shared_memory: set[Path] = set()
        self._started = 0.0
        self.prefix = f"{spec.title}: " if len(runtime.engines) > 1 else ""
        self.peer: bytes | None = None
        self.state = EngineState("starting", "starting", time.time(), number)

    def _reset(self, now: float) -> None:
        super()._reset(now)
        self.patience_s: float | None = None

    def start(self, now: float) -> None:
        """Start it with a temporary directory of its own."""
        if (directory := leftovers.make_temporary(self._temporary)) is not None:
            self._environment["TMPDIR"] = directory
        self._started = time.time()
        super().start(now)

    def died(self, now: float) -> str | None:
        """Return why it died, once after each death, and remove what it left."""
        cause = super().died(now)
        if cause is not None:
            self._remove_leftovers()
        return cause

    def kill(self, cause: str | None = None) -> None:
        """Kill its process group."""
        if self.pid is not None:
            self._shared_memory |= leftovers.shared_memory_of(self.pid, self._started)
        super().kill(cause)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, and remove what it left; False if it still runs."""
        ended = super().wait(timeout_s)
        if ended:
            self._remove_leftovers()
        return ended

    def _remove_leftovers(self) -> None:
        leftovers.remove_temporary(self._temporary)
        leftovers.remove_shared_memory(self._shared_memory)

    def enter(self, state: Literal["starting", "ready", "restarting"], detail: str) -> EngineState:
        """Change the state and return it."""
        restarts = max(0, self.restarts)
        self.state = EngineState(state, detail, time.time(), self._number, restarts)
        return self.state


def command_of(runtime: Runtime, *program: str) -> list[str]:
    """Return the arguments of Python for a program of the instance."""
    return ["-m", *program, "--run-dir", runtime.run_dir]


def policy_of(runtime: Runtime) -> RestartPolicy:
    """Return the configured restart policy."""
    limits = runtime.config.supervision
    return RestartPolicy(limits.max_restarts, limits.restart_window_s)
