"""The frontends: those that serve, and how others take their places without losing a connection.

A place is one of the listening sockets. For a new configuration, certificate or version, another
process starts on each of them. Once all of these are ready, the earlier ones accept no more
connections and end with their requests. If one does not become ready, the new ones leave instead.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf

from vgate.config import Runtime
from vgate.config.runtime import MAX_WORKER
from vgate.launcher.child import Child, command_of, policy_of
from vgate.launcher.output import Output
from vgate.log import Log
from vgate.wire.control import FrontendBeat, HandOver, LauncherToFrontend

# How long one that starts may take until it is ready, if the one that it replaces is.
_READY_S = 60.0
# Those of so many configurations may still have requests.
_MOST_GENERATIONS = 8
# How much longer than a request a frontend that leaves may take: its idle connections end first.
_LEAVE_SLACK_S = 90.0

log = Log("vgate.launcher")


class HandOverError(Exception):
    """The frontends can't be replaced now; the message says why."""


class FrontendChild(Child):
    """One frontend process.

    Attributes:
        worker: Its number. Its counts have the number as well, so no two live processes share one.
        peer: The identity of its control link; None before its first message.
        not_ready_because: As it says; None if it is ready.
        problem: Why it will never be ready, as it says.
        leave_s: How long it may take to finish its requests.
        gone_by: When it must have ended, if it leaves.
    """

    def __init__(
        self, runtime: Runtime, worker: int, listener: int, output: Output | None = None
    ) -> None:
        numbers = "--worker", str(worker), "--listener", str(listener)
        command = command_of(runtime, "vgate.frontend", *numbers)
        policy = policy_of(runtime)
        super().__init__(f"frontend-{worker}", command, policy, output=output, passed=(listener,))
        self.worker = worker
        self.leave_s = runtime.config.timeouts.request_s + _LEAVE_SLACK_S
        self.gone_by = 0.0

    def _reset(self, now: float) -> None:
        super()._reset(now)
        self.peer: bytes | None = None
        self.not_ready_because: str | None = "it has not reported anything"
        self.problem: str | None = None

    def hear(self, peer: bytes, beat: FrontendBeat, now: float) -> None:
        """Take over what a heartbeat says."""
        self.peer, self.last_beat, self.ready = peer, now, beat.ready
        self.not_ready_because = beat.not_ready_because
        self.problem = beat.problem or (beat.not_ready_because if beat.refused else None)


class Frontends:
    """All frontends of an instance. Times are those of a `JudgesClock`.

    Attributes:
        serving: Those that have the places, one for each listener. Their owner restarts them.
        arriving: Those that are to replace them, so far.
        leaving: Those that finish their requests.
    """

    def __init__(
        self,
        runtime: Runtime,
        listeners: Sequence[int],
        send: Callable[[bytes, LauncherToFrontend], None],
        output: Output | None = None,
    ) -> None:
        self._runtime = runtime
        self._listeners = listeners
        self._send = send
        self._output = output
        self.serving = [
            FrontendChild(runtime, worker, listener, output)
            for worker, listener in enumerate(listeners, 1)
        ]
        self.arriving: list[FrontendChild] = []
        self.leaving: list[FrontendChild] = []
        self._on_end: Callable[[str | None], None] | None = None

    def __iter__(self) -> Iterator[FrontendChild]:
        """Return all of them."""
        return iter([*self.serving, *self.arriving, *self.leaving])

    @property
    def handing_over(self) -> bool:
        """Whether others are about to take the places."""
        return self._on_end is not None

    @property
    def heard(self) -> dict[int, float]:
        """When each one that runs was last heard, by its pid; infinity before it serves."""
        return {
            child.pid: child.last_beat if child.last_beat > child.started_at else inf
            for child in self
            if child.pid is not None
        }

    def replace(self, runtime: Runtime, on_end: Callable[[str | None], None]) -> None:
        """Start others with these settings, which are already written.

        Calls `on_end` with why they could not take the places, or None if they have taken them.

        Raises:
            HandOverError: Too many still leave.
        """
        most = min(MAX_WORKER, _MOST_GENERATIONS * len(self.serving))
        if (count := len(list(self)) + len(self.serving)) > most:
            raise HandOverError(
                f"{count} frontends would run at once, and at most {most} may: wait until those "
                "that were replaced have finished their requests, or restart V-Gate"
            )
        self._runtime, self._on_end = runtime, on_end

    def hear(self, peer: bytes, beat: FrontendBeat, now: float) -> FrontendChild | None:
        """Return the frontend of a heartbeat; None if it has ended."""
        child = next((child for child in self if child.pid == beat.pid), None)
        if child is not None:
            if child.peer is None and child in self.leaving:
                self._send(peer, HandOver())
            child.hear(peer, beat, now)
        return child

    def advance(self, now: float) -> None:
        """Go on with what has begun. Call it several times a second."""
        for child in list(self.leaving):
            if (cause := child.died(now)) is not None:
                self.leaving.remove(child)
                write = log.info if cause == "exit status 0" else log.error
                write("a frontend that was replaced has ended", name=child.name, cause=cause)
            elif now > child.gone_by:
                child.kill("it did not end")
        if self._on_end is None:
            return
        places = list(zip(self.arriving, self.serving, strict=False))
        if (problem := self._problem(now)) is not None:
            self._end(self.arriving, problem, now)
        elif not all(_can_replace(new, old) for new, old in places):
            return
        elif len(places) < len(self._listeners):
            self._start_next(now)
        else:
            earlier, self.serving = self.serving, self.arriving
            self._end(earlier, None, now)

    def _start_next(self, now: float) -> None:
        taken = {child.worker for child in self}
        worker = next(number for number in range(1, MAX_WORKER + 1) if number not in taken)
        listener = self._listeners[len(self.arriving)]
        child = FrontendChild(self._runtime, worker, listener, self._output)
        self.arriving.append(child)
        child.start(now)

    def _problem(self, now: float) -> str | None:
        """Return why those that arrive can't take the places; None if they still may."""
        for child, old in zip(self.arriving, self.serving, strict=False):
            if (cause := child.died(now)) is not None:
                return f"the new {child.name} ended ({cause}); the log says more"
            if child.problem is not None:
                return child.problem
            if now - child.started_at > _READY_S and not _can_replace(child, old):
                reason = child.not_ready_because
                return f"the new {child.name} is not ready after {_READY_S:.0f} s: {reason}"
        return None

    def _end(self, leaving: list[FrontendChild], problem: str | None, now: float) -> None:
        on_end, self._on_end, self.arriving = self._on_end, None, []
        for child in leaving:
            if child.pid is None:  # it has died
                continue
            child.gone_by = now + child.leave_s
            self.leaving.append(child)
            if child.peer is not None:
                self._send(child.peer, HandOver())
        if on_end is not None:
            on_end(problem)


def _can_replace(new: Child, old: Child) -> bool:
    """Whether a frontend works, and serves if the one that it replaces does."""
    return new.last_beat > new.started_at and (new.ready or not old.ready)
