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

from vgate.config import Runtime, without_settings
from vgate.launcher import leftovers
from vgate.launcher.output import Output
from vgate.wire.control import EngineState, StateName

_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 30.0
_MOST_BETWEEN_CALLS_S = 0.5
_LAST_WORDS_S = 0.1
_DEVICES = "CUDA_VISIBLE_DEVICES"
_ILLEGAL = (
    "killed by SIGILL: the CPU lacks an instruction; with bfloat16 in a virtual machine, "
    "model.dtype: float32 helps"
)


class GaveUpError(Exception):
    """A process died too often or can't run at all; the message is the cause."""


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

    def forget(self) -> None:
        """Forget all deaths."""
        self._deaths.clear()


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
            pipe, self._forwarding = self._output.pipe(self.name)
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
        if status == -signal.SIGILL and not self.ready:
            self.permanent = True
        delay_s = None if self.permanent else self._delay_s(status, now)
        self.ready = False
        self.restart_at = None if delay_s is None else now + delay_s
        return self.cause or _describe(status)

    def _delay_s(self, _status: int, now: float) -> float | None:
        """Return the seconds until the restart after it ended like this; None to give it up."""
        return self._policy.next_delay_s(now)

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
    if status == -signal.SIGILL:
        return _ILLEGAL
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class EngineChild(Child):
    """The process of the engine with a number in `Runtime.engines`, and the engine's state.

    Attributes:
        devices: The GPUs that it was given; none if it takes what there is.
        state: The state that frontends were sent last.
        summary: What it says of itself; "" before it was ready.
        drained: It takes nothing new until an operator resumes it.
        given_up: It can't be kept running, and is only tried again from time to time.
        downloads: It fetches its model, before it takes anything of a GPU.
        asleep: It runs, and has given its device's memory back until it is woken.
        wanted: It is to run; not if its model is unloaded, or about to be.
        ended_well: It ended by itself, once it was ready, without an error.
        peer: The identity of its control link; None before its first message.
        patience_s: How long its step may take, as it says; None if it does not know.
        slowest_step_s: How long one with the longest prompt takes; 0 if it does not know.
    """

    def __init__(self, runtime: Runtime, number: int, output: Output | None = None) -> None:
        spec, name = runtime.engines[number], runtime.engine_name(number)
        command = command_of(runtime, "vgate.engine", "--engine", str(number))
        super().__init__(name, command, policy_of(runtime), spec.environment, output)
        self.number, self.spec = number, spec
        self.devices = frozenset(filter(None, spec.environment.get(_DEVICES, "").split(",")))
        self.summary = ""
        self.drained = self.given_up = False
        self.wanted = True
        self.loads = self.unloads = 0
        self._temporary = leftovers.link_of(runtime.run_dir, f"engine-{number}")
        # By which an engine knows that the one before it was killed.
        self._life = runtime.directory("engines") / str(number)
        self._shared_memory: set[Path] = set()
        self._started = 0.0
        self.peer: bytes | None = None
        self.state = EngineState("starting", "starting", time.time(), number)

    def _reset(self, now: float) -> None:
        super()._reset(now)
        self.patience_s: float | None = None
        self.slowest_step_s = 0.0
        self.ended_well = self.asleep = self.downloads = False

    @property
    def is_loading(self) -> bool:
        """Whether it runs and is on its way to being ready."""
        return self.pid is not None and not (self.ready or self.asleep)

    @property
    def is_left(self) -> bool:
        """Whether it serves, or may do so soon."""
        return self.pid is not None or not self.given_up

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

    def _delay_s(self, status: int, now: float) -> float | None:
        # It ends without an error after a drain only, which is no fault.
        self.ended_well = status == 0 and self.ready
        return 0.0 if self.ended_well else super()._delay_s(status, now)

    def terminate(self) -> None:
        """Send SIGTERM, which ends one that loads at once."""
        super().terminate()
        if self.is_loading:
            self._life.unlink(missing_ok=True)

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

    def put_away(self) -> None:
        """Have it not started until it is `wanted`, as if it had never run."""
        self.wanted = self.drained = self.given_up = self.asleep = False
        self.restart_at, self.restarts = None, -1
        self._policy.forget()

    def _remove_leftovers(self) -> None:
        leftovers.remove_temporary(self._temporary)
        leftovers.remove_shared_memory(self._shared_memory)

    def enter(self, state: StateName, detail: str, ahead: int = 0) -> EngineState:
        """Change the state and return it; `ahead`: how many models are loaded first."""
        restarts = max(0, self.restarts)
        counts = restarts, ahead, self.loads, self.unloads
        self.state = EngineState(
            state, detail, time.time(), self.number, *counts, drained=self.drained
        )
        return self.state


def command_of(runtime: Runtime, *program: str) -> list[str]:
    """Return the arguments of Python for a program of the instance."""
    return ["-m", *program, "--run-dir", runtime.run_dir]


def policy_of(runtime: Runtime) -> RestartPolicy:
    """Return the configured restart policy."""
    limits = runtime.config.supervision
    return RestartPolicy(limits.max_restarts, limits.restart_window_s)
