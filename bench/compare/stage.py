"""What a scenario works with: it starts contenders, lets them take turns, and keeps the results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from bench.compare.clock import Clock
from bench.compare.contenders import CONTENDERS, Settings, Setup
from bench.compare.load import Load, Sample, take_turn
from bench.compare.processes import cpu_s, memory
from bench.compare.progress import Progress
from bench.compare.results import Case, Measures, ScenarioResult, Start, Target, rows_of
from bench.compare.service import FailedError, Running, UnavailableError


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured.

    Attributes:
        quick: Small loads, for a look within a minute.
        repetitions: Turns of each contender in each case, time permitting.
        total_s: The time that everything may take.
        only: The contenders that may take part; empty: all.
    """

    quick: bool = False
    repetitions: int = 3
    total_s: float = 600.0
    only: tuple[str, ...] = ()

    def pick(self, quick: int, full: int) -> int:
        """Return one of two sizes."""
        return quick if self.quick else full


class Stage:
    """One comparison; `result` is that of the present scenario."""

    def __init__(self, plan: Plan, setup: Setup, clock: Clock, progress: Progress) -> None:
        self.plan = plan
        self.setup = setup
        self.clock = clock
        self.progress = progress
        self.result = ScenarioResult(name="", title="")
        self.starts: list[Start] = []
        self.skipped: dict[str, str] = {}

    @contextmanager
    def running(self, *names: str, settings: Settings) -> Iterator[list[Running]]:
        """Start contenders one after the other, without those that cannot take part."""
        with ExitStack() as stack:
            built = [built for name in names if (built := self._build(name, settings)) is not None]
            if self.plan.quick:
                # Together they are ready sooner; how long each needs alone a full run tells.
                for running in built:
                    stack.callback(running.stop)
                    running.launch()
            yield [running for running in built if self._start(stack, running)]

    def _build(self, name: str, settings: Settings) -> Running | None:
        if self.plan.only and name not in self.plan.only:
            return None
        if name in self.skipped:
            self.note(f"{name} is left out: {self.skipped[name]}")
            return None
        try:
            service = CONTENDERS[name](self.setup, settings)
        except UnavailableError as error:
            self._leave_out(name, str(error))
            return None
        more = self.setup.environment.get(name, {})
        return Running(msgspec.structs.replace(service, environment=service.environment | more))

    def _start(self, stack: ExitStack, running: Running) -> bool:
        """Wait until a contender is ready; return whether it is."""
        self.progress.say(f"starting {running.name}")
        try:
            stack.enter_context(running)
        except FailedError as error:
            self.progress.say(error.log)
            self._leave_out(running.name, str(error))
            return False
        processes = running.processes
        self.starts.append(
            Start(
                contender=running.name,
                scenario=self.result.name,
                seconds=round(running.start_s, 3),
                memory=memory(processes),
                cpu_s=round(cpu_s(processes), 3),
            )
        )
        return True

    def _leave_out(self, name: str, why: str) -> None:
        self.skipped[name] = why
        self.progress.say(f"{name} is left out: {why}")
        self.note(f"{name} is left out: {why}")

    def note(self, text: str) -> None:
        """Keep what a reader must know, once."""
        if text not in self.result.notes:
            self.result.notes.append(text)

    def case(
        self,
        name: str,
        load: Load | Mapping[str, Load],
        contenders: Sequence[Running],
        shown: Sequence[str],
    ) -> Case | None:
        """Let the contenders take turns under one load, or each under its own, by name."""
        if not contenders:
            return None
        loads = {c.name: load if isinstance(load, Load) else load[c.name] for c in contenders}

        def turn(running: Running) -> Sample:
            others = [contender for contender in contenders if contender is not running]
            return take_turn(running, loads[running.name], others)

        described = loads[contenders[0].name].described()
        return self.measure(name, described, contenders, shown, turn)

    def measure(
        self,
        name: str,
        described: dict[str, str | int | float | bool],
        contenders: Sequence[Running],
        shown: Sequence[str],
        turn: Callable[[Running], Sample],
    ) -> Case | None:
        """Let the contenders take turns, and keep what they did.

        Args:
            name: Of the case.
            described: The load, for the reader.
            contenders: All of them, V-Gate first.
            shown: Measures of the table.
            turn: Measures one of them once.

        Returns:
            The case, or None if there is nobody to measure.
        """
        if not contenders:
            return None
        case: Case | None = None
        samples: dict[str, list[Measures]] = {contender.name: [] for contender in contenders}
        failures: dict[str, list[str]] = {contender.name: [] for contender in contenders}
        try:
            self._take_turns(name, contenders, turn, samples, failures)
        finally:
            # Also when time is over or somebody has lost patience: whole repetitions count.
            whole = min(len(taken) for taken in samples.values())
            if whole or any(failures.values()):
                case = self._keep(name, described, shown, samples, failures)
        return case

    def _keep(
        self,
        name: str,
        described: dict[str, str | int | float | bool],
        shown: Sequence[str],
        samples: dict[str, list[Measures]],
        failures: dict[str, list[str]],
    ) -> Case:
        case = Case(
            name=name,
            load=described,
            repetitions=max(len(taken) for taken in samples.values()),
            shown=list(shown),
            rows=rows_of({n: s for n, s in samples.items() if s or failures[n]}, failures),
        )
        self.result.cases.append(case)
        return case

    def _take_turns(
        self,
        name: str,
        contenders: Sequence[Running],
        turn: Callable[[Running], Sample],
        samples: dict[str, list[Measures]],
        failures: dict[str, list[str]],
    ) -> None:
        """Fill in what the turns give: A B C, A B C, ..., while there is time."""
        longest_s = 0.0
        for repetition in range(self.plan.repetitions):
            if repetition and not self.clock.allows(longest_s):
                self.note(f"{name}: {repetition} of {self.plan.repetitions} repetitions in time")
                break
            began_s = self.clock.elapsed_s
            for contender in contenders:
                self.progress.say(
                    f"{name}: {repetition + 1} of {self.plan.repetitions}: {contender.name}"
                )
                try:
                    sample = turn(contender)
                except FailedError as error:
                    failures[contender.name].append(str(error))
                    sample = Sample({}, [])  # the next turns stay beside those of the others
                samples[contender.name].append(sample.measures)
                failures[contender.name] += sample.failures
            longest_s = max(longest_s, self.clock.elapsed_s - began_s)

    def fail(self, text: str) -> None:
        """Keep a wrong answer that belongs to no case."""
        self.progress.say(text)
        self.result.failures.append(text)

    def target(self, what: str, value: float | None, *, at_most: float | None = None,
               at_least: float | None = None) -> None:  # fmt: skip
        """Keep a figure that should reach something; None, where it could not be had."""
        if value is None:
            return
        if at_most is not None:
            self.result.targets.append(Target(what, f"<= {at_most:g}", value, value <= at_most))
        if at_least is not None:
            self.result.targets.append(Target(what, f">= {at_least:g}", value, value >= at_least))


def figure(case: Case | None, contender: str, measure: str) -> float | None:
    """Return a median, or None if there is none."""
    for row in case.rows if case is not None else ():
        if row.contender == contender and measure in row.measures:
            return row.measures[measure].median
    return None


def ratio(case: Case | None, contender: str, measure: str) -> float | None:
    """Return the median of V-Gate's value over a contender's, or None if there is none."""
    for row in case.rows if case is not None else ():
        if row.contender == contender and measure in row.ratios:
            return row.ratios[measure].median
    return None
