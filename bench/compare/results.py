"""The results of a comparison: the JSON file's structure, and how repetitions become figures.

A measure is a number with a name such as `requests_per_s`, `ttft_ms.p99` or
`cpu_us_per_token.frontend`: a quantity, then a percentile or the kind of process, and for CPU time
`user` or `kernel` where it is split.
"""

import statistics
from collections.abc import Mapping, Sequence

import msgspec

Measures = dict[str, float]

# The first contender of a case whose name starts with this is compared with all others.
_REFERENCE = "vgate"


class Figure(msgspec.Struct, frozen=True):
    """A measure over all repetitions, with their `values` in order."""

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
        ratios: V-Gate's value over this contender's in each repetition, for measures that both
            have; empty for V-Gate itself.
        failures: A sentence for each kind of wrong answer.
    """

    contender: str
    measures: dict[str, Figure]
    ratios: dict[str, Figure] = {}
    failures: list[str] = []


class Case(msgspec.Struct, kw_only=True):
    """One load, which each contender gets in turn.

    Attributes:
        name: Such as "128 clients, 64 tokens".
        load: What was sent, in the load generator's terms.
        repetitions: How many turns each contender had.
        shown: The measures of the Markdown table, in order.
        rows: One per contender, V-Gate first.
    """

    name: str
    load: dict[str, str | int | float | bool] = {}
    repetitions: int = 0
    shown: list[str]
    rows: list[Row] = []

    def figure(self, contender: str, measure: str) -> float | None:
        """Return the median of a contender's measure, or None if there is none."""
        row = next((row for row in self.rows if row.contender == contender), None)
        return row.measures[measure].median if row and measure in row.measures else None

    def ratio(self, contender: str, measure: str) -> float | None:
        """Return the median of V-Gate's value over a contender's, or None if there is none."""
        row = next((row for row in self.rows if row.contender == contender), None)
        return row.ratios[measure].median if row and measure in row.ratios else None


class Target(msgspec.Struct, frozen=True):
    """A value that a figure should reach; `met` is judged by the median."""

    what: str
    limit: str
    value: float
    met: bool


class ScenarioResult(msgspec.Struct, kw_only=True):
    """One scenario.

    Attributes:
        notes: What a reader must know, such as why it has no cases.
        failures: Wrong answers that belong to no case.
    """

    name: str
    title: str
    seconds: float = 0.0
    cases: list[Case] = []
    targets: list[Target] = []
    notes: list[str] = []
    failures: list[str] = []


class Comparison(msgspec.Struct, kw_only=True):
    """The whole file. `starts` has every contender's starts, from the command to readiness."""

    format: int = 1
    started_at: str
    seconds: float = 0.0
    mode: str
    repetitions: int
    host: dict[str, str | int | float]
    versions: dict[str, str]
    skipped: dict[str, str] = {}
    scenarios: list[ScenarioResult] = []
    starts: Case | None = None

    @property
    def failures(self) -> list[str]:
        """All failures, each with where it belongs."""
        found = [f"{one.name}: {failure}" for one in self.scenarios for failure in one.failures]
        return found + [
            f"{scenario.name}, {case.name}, {row.contender}: {failure}"
            for scenario in self.scenarios
            for case in scenario.cases
            for row in case.rows
            for failure in row.failures
        ]


def rows_of(
    samples: Mapping[str, Sequence[Measures]], failures: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Return the rows of a case, V-Gate's first; all contenders have equally many samples."""
    reference = next((name for name in samples if name.startswith(_REFERENCE)), None)
    ours = samples[reference] if reference else ()
    return [
        Row(
            contender=name,
            measures=figures_of(samples[name]),
            ratios={} if name == reference else figures_of(_ratios(ours, samples[name])),
            failures=list(failures.get(name, ())),
        )
        for name in sorted(samples, key=lambda name: name != reference)
    ]


def figures_of(samples: Sequence[Measures]) -> dict[str, Figure]:
    """Summarize each measure over the samples that have it."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {
        name: Figure.of([sample[name] for sample in samples if name in sample]) for name in names
    }


def _ratios(ours: Sequence[Measures], theirs: Sequence[Measures]) -> list[Measures]:
    """Return each repetition's ratios of what both have and is not zero."""
    return [
        {name: one[name] / value for name, value in other.items() if value and one.get(name)}
        for one, other in zip(ours, theirs, strict=False)
    ]


def _rounded(value: float) -> float:
    """Round to five significant digits: more is noise, and makes the file hard to read."""
    return float(f"{value:.5g}")
