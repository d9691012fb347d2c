"""What one decision of the limiter costs while all workers ask at the same time.

    python -m bench.limits

Each repetition forks worker processes that share one key, starts them at the same moment, and lets
each make its part of the requests as fast as it can. Every decision has two times: the wall-clock
time, and the CPU time of its thread. With fewer cores than workers the former includes other
processes' time slices, so its tail says as much about the machine as about V-Gate.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.load.options import positive
from vgate.frontend.access.limiter import KeyLimits, LocalLimiter

_KEY = "measured"
_LONG_S = 3600.0
_WARMUP = 200
_TIMEOUT_S = 60
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Options(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        requests: Attempts of one repetition, of all workers together.
        limit: Requests that the key may make in the window.
        repetitions: How often; each begins with an unused key.
    """

    workers: int = 8
    requests: int = 2000
    limit: int = 100
    repetitions: int = 9


# One worker's decisions: how many admitted a request, and all CPU and wall-clock times in ns.
Decisions = tuple[int, list[int], list[int]]


def measure(options: Options) -> dict[str, Any]:
    """Measure, and return the summary as it is printed."""
    runs = [_run_once(options) for _ in range(options.repetitions)]
    cpu_ns = [[ns for one in run for ns in one[1]] for run in runs]
    wall_ns = [[ns for one in run for ns in one[2]] for run in runs]
    return {
        "options": msgspec.to_builtins(options),
        "cores": len(os.sched_getaffinity(0)),
        "admitted": [sum(one[0] for one in run) for run in runs],
        "decisions": sum(len(values) for values in cpu_ns),
        "clock_us": round(_clock_cost_ns() / 1000, 2),
        "cpu_us": _over_repetitions(cpu_ns),
        "wall_us": _over_repetitions(wall_ns),
    }


def _run_once(options: Options) -> list[Decisions]:
    """Let all workers ask at the same time."""
    each = options.requests // options.workers
    limits = KeyLimits(requests=options.limit, window_s=_LONG_S)
    fork = multiprocessing.get_context("fork")
    barrier, answers = fork.Barrier(options.workers), fork.Queue()
    with tempfile.TemporaryDirectory() as directory:

        def work(number: int) -> None:
            limiter = LocalLimiter(Path(directory, "limits"), number)
            answers.put(asyncio.run(_ask(limiter, limits, each, barrier.wait)))

        workers = [fork.Process(target=work, args=(n,)) for n in range(options.workers)]
        for worker in workers:
            worker.start()
        found = [answers.get(timeout=_TIMEOUT_S) for _ in workers]
        for worker in workers:
            worker.join()
    return found


async def _ask(
    limiter: LocalLimiter, limits: KeyLimits, count: int, wait: Callable[[], object]
) -> Decisions:
    # The costs of a process's first calls, and of a fork's first access to each page.
    for _ in range(_WARMUP):
        await limiter.reserve("another", limits)
    await limiter.usage(_KEY, limits)  # opens the key's file
    wait()
    thread_ns, clock_ns = time.thread_time_ns, time.perf_counter_ns
    admitted, cpu_ns, wall_ns = 0, [0] * count, [0] * count
    for number in range(count):
        wall, cpu = clock_ns(), thread_ns()
        grant = await limiter.reserve(_KEY, limits)
        cpu_end, wall_end = thread_ns(), clock_ns()
        admitted += grant.decision.allowed
        cpu_ns[number] = cpu_end - cpu
        wall_ns[number] = wall_end - wall
    return admitted, cpu_ns, wall_ns


def _over_repetitions(runs: list[list[int]]) -> dict[str, dict[str, float]]:
    """Return each percentile's median over the repetitions, with the minimum and maximum."""
    found = {}
    for name, share in _PERCENTILES.items():
        values = [sorted(run)[min(len(run) - 1, int(share * len(run)))] / 1000 for run in runs]
        figures = (
            ("median", statistics.median(values)),
            ("min", min(values)),
            ("max", max(values)),
        )
        found[name] = {figure: round(value, 1) for figure, value in figures}
    return found


def _clock_cost_ns() -> int:
    """Return about how much reading the two clocks adds to each measured time."""
    costs = []
    for _ in range(1000):
        started = time.thread_time_ns()
        time.perf_counter_ns()
        costs.append(time.thread_time_ns() - started)
    return round(statistics.median(costs))


def main(arguments: list[str]) -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.limits",
        description="Measure what one decision of the limiter costs while all workers ask at once.",
    )
    for name, default in msgspec.to_builtins(Options()).items():
        parser.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help=f"default {default}"
        )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.requests < options.workers:
        parser.error("there must be at least one request for each worker")
    print(json.dumps(measure(options), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
