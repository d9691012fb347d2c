"""From rates to the numbers that are told."""

import statistics
from collections.abc import Sequence

import msgspec

from bench.engine_loop.workload import Workload

_US_PER_S = 1_000_000


class Measured(msgspec.Struct, frozen=True):
    """One repetition of one side: its time, and its process's CPU time meanwhile."""

    seconds: float
    cpu_s: float


class Spread(msgspec.Struct, frozen=True):
    """Tokens per second over all repetitions; `spread` is (max - min) / median."""

    repetitions: list[float]
    median: float
    min: float
    max: float
    spread: float

    @classmethod
    def of(cls, rates: Sequence[float]) -> "Spread":
        """Summarize the repetitions' rates, of which there is at least one."""
        median = statistics.median(rates)
        low, high = min(rates), max(rates)
        return cls([round(rate, 1) for rate in rates], median, low, high, (high - low) / median)


class Summary(msgspec.Struct, frozen=True):
    """The result.

    Attributes:
        model: Directory of the model.
        workload: What was generated.
        bare: vLLM's EngineCore in a loop of its own.
        served: The engine process, asked over its socket.
        ratio: Median of `served` over median of `bare`.
        pair_ratios: The same for each repetition, whose two measurements were neighbours.
        pair_ratio: Their median; on a machine whose speed drifts it says more than `ratio`.
        bare_cpu_us, served_cpu_us: CPU time of the process per token, all threads, over all
            repetitions. What other programs do hardly shows in it, unlike in the rates.
    """

    model: str
    workload: Workload
    bare: Spread
    served: Spread
    ratio: float
    pair_ratios: list[float]
    pair_ratio: float
    bare_cpu_us: float
    served_cpu_us: float

    @classmethod
    def of(
        cls, model: str, workload: Workload, bare: Sequence[Measured], served: Sequence[Measured]
    ) -> "Summary":
        """Summarize measurements; both sides have as many."""
        of_bare = Spread.of([workload.tokens / one.seconds for one in bare])
        of_served = Spread.of([workload.tokens / one.seconds for one in served])
        pairs = [round(a.seconds / b.seconds, 4) for a, b in zip(bare, served, strict=True)]
        return cls(
            model=model,
            workload=workload,
            bare=of_bare,
            served=of_served,
            ratio=of_served.median / of_bare.median,
            pair_ratios=pairs,
            pair_ratio=statistics.median(pairs),
            bare_cpu_us=_cpu_us_per_token(workload, bare),
            served_cpu_us=_cpu_us_per_token(workload, served),
        )


def _cpu_us_per_token(workload: Workload, measured: Sequence[Measured]) -> float:
    return sum(one.cpu_s for one in measured) / (workload.tokens * len(measured)) * _US_PER_S


def table(summary: Summary) -> str:
    """Return the summary for people."""
    work = summary.workload
    each = f"{work.prompt_tokens} prompt and {work.output_tokens} output tokens"
    lines = [
        f"{work.rounds} x {work.sequences} sequences of {each} a repetition; in tokens/s:",
        f"{'repetition':<12}{'EngineCore':>12}{'V-Gate':>12}{'ratio':>8}",
    ]
    rows = zip(
        summary.bare.repetitions, summary.served.repetitions, summary.pair_ratios, strict=True
    )
    lines += [
        f"{number:<12}{bare:>12,.0f}{served:>12,.0f}{ratio:>8.3f}"
        for number, (bare, served, ratio) in enumerate(rows, start=1)
    ]
    bare, served = summary.bare, summary.served
    bare_us, served_us = summary.bare_cpu_us, summary.served_cpu_us
    lines += [
        f"{'median':<12}{bare.median:>12,.0f}{served.median:>12,.0f}{summary.ratio:>8.3f}",
        f"{'of pairs':<36}{summary.pair_ratio:>8.3f}",
        f"{'spread':<12}{bare.spread:>12.1%}{served.spread:>12.1%}",
        f"{'CPU us/token':<12}{bare_us:>12.1f}{served_us:>12.1f}{bare_us / served_us:>8.3f}",
    ]
    return "\n".join(lines)
