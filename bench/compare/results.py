"""What a comparison found: the JSON file's shape, and how figures come from repetitions.

A measure is a number with a name such as `requests_per_s`, `ttft_ms.p99` or
`cpu_us_per_token.frontend`: what, then a percentile or the kind of process, and for CPU time
`user` or `kernel` where it is split.
"""

import statistics
from collections.abc import Mapping, Sequence

import msgspec

Measures = dict[str, float]

# Whose figures all others are compared with: the one contender of a case whose name begins so.
REFERENCE = "vgate"


class Figure(msgspec.Struct, frozen=True):
    """A measure over all repetitions, `values` in their order."""

    median: float
    min: float
    max: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Summarize at least one value."""
        rounded = [_rounded(value) for value in values]
        return cls(_rounded(statistics.median(values)), min(rounded), max(rounded), rounded)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One contender in one case.

    Attributes:
        contender: Its name.
        measures: By the measure's name.
        ratios: V-Gate's value over this contender's, repetition by repetition, for each measure
            that both have; empty for V-Gate itself.
        failures: What was wrong with answers: each a sentence; empty if all were right.
    """

    contender: str
    measures: dict[str, Figure]
    ratios: dict[str, Figure] = {}
    failures: list[str] = []


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One load, given to each contender in turn.

    Attributes:
        name: Such as "128 clients, 64 tokens".
        load: What was sent, in the load generator's terms.
        repetitions: How often each contender had its turn.
        shown: The measures of the Markdown table, in order.
        rows: V-Gate first.
    """

    name: str
    load: dict[str, str | int | float | bool]
    repetitions: int
    shown: list[str]
    rows: list[Row]


class Target(msgspec.Struct, frozen=True):
    """Something that a figure should reach; `met` is judged on the median."""

    what: str
    limit: str
    value: float
    met: bool


class ScenarioResult(msgspec.Struct, kw_only=True):
    """One scenario. `notes` say what must be known to read it, or why it has no cases.

    `failures` are wrong answers that were found outside of its cases.
    """

    name: str
    title: str
    seconds: float = 0.0
    cases: list[Case] = []
    targets: list[Target] = []
    notes: list[str] = []
    failures: list[str] = []


class ProcessMemory(msgspec.Struct, frozen=True):
    """The processes of one kind once they are ready."""

    kind: str
    processes: int
    rss_mib: float
    peak_rss_mib: float


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a contender, from the command to the first answer that says it is ready."""

    contender: str
    scenario: str
    seconds: float
    memory: list[ProcessMemory]
    cpu_s: float


class Comparison(msgspec.Struct, kw_only=True):
    """The whole file."""

    format: int = 1
    started_at: str
    seconds: float
    mode: str
    repetitions: int
    host: dict[str, str | int | float]
    versions: dict[str, str]
    skipped: dict[str, str]
    scenarios: list[ScenarioResult]
    starts: list[Start]

    @property
    def failures(self) -> list[str]:
        """Every wrong answer that was found."""
        found = [
            f"{scenario.name}: {failure}"
            for scenario in self.scenarios
            for failure in scenario.failures
        ]
        return found + [
            f"{scenario.name}, {case.name}, {row.contender}: {failure}"
            for scenario in self.scenarios
            for case in scenario.cases
            for row in case.rows
            for failure in row.failures
        ]


def rows_of(
    samples: Mapping[str, Sequence[Measures]], failures: Mapping[str, Sequence[str]] | None = None
) -> list[Row]:
    """Return the rows of a case, V-Gate's first; each contender has as many samples."""
    reference = next((name for name in samples if name.startswith(REFERENCE)), None)
    ordered = sorted(samples, key=lambda name: name != reference)
    return [
        Row(
            contender=name,
            measures=_figures(samples[name]),
            ratios=_ratios(samples[reference], samples[name])
            if reference is not None and name != reference
            else {},
            failures=list((failures or {}).get(name, ())),
        )
        for name in ordered
    ]


def _figures(samples: Sequence[Measures]) -> dict[str, Figure]:
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {
        name: Figure.of([sample[name] for sample in samples if name in sample]) for name in names
    }


def _ratios(reference: Sequence[Measures], other: Sequence[Measures]) -> dict[str, Figure]:
    """Return the ratios of the repetitions in which both have the measure, and it is not zero."""
    ratios = {}
    for name in dict.fromkeys(name for sample in other for name in sample):
        found = [
            ours[name] / theirs[name]
            for ours, theirs in zip(reference, other, strict=False)
            if ours.get(name) and theirs.get(name)
        ]
        if found:
            ratios[name] = Figure.of(found)
    return ratios


def _rounded(value: float) -> float:
    """Round to five significant digits: more is noise, and the file stays readable."""
    return float(f"{value:.5g}")
