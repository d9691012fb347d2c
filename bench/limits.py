"""What one decision of the limiter costs while all workers ask at once.

    python -m bench.limits

Each repetition forks worker processes that share one key, lets them go at the same moment, and has
each make its part of the requests as fast as it can. Every decision is timed twice: the time on the
clock, and the processor time of its own thread. On fewer cores than workers the former has in it
what the kernel gave to others in between, so its tail tells of the machine as much as of V-Gate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vgate.frontend.access.limiter.local import LocalLimiter
from vgate.frontend.access.limiter.port import KeyLimits

_KEY = "measured"
_LONG_S = 3600.0
_WARMUP = 200
_WORD_BYTES = 8


class Options(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        workers: Processes.
        requests: Attempts of one repetition, all workers together.
        limit: Requests that the key may make in the window.
        repetitions: How often; each begins with a key that nobody has used.
    """

    workers: int = 8
    requests: int = 2000
    limit: int = 100
    repetitions: int = 9


class Repetition(msgspec.Struct, frozen=True):
    """What one repetition showed; times are those of every decision, in nanoseconds."""

    admitted: int
    cpu_ns: list[int]
    wall_ns: list[int]


def measure(options: Options) -> dict[str, Any]:
    """Measure, and return the summary as it is printed."""
    runs = [run_once(options) for _ in range(options.repetitions)]
    return {
        "options": msgspec.to_builtins(options),
        "cores": len(os.sched_getaffinity(0)),
        "admitted": [run.admitted for run in runs],
        "decisions": sum(len(run.cpu_ns) for run in runs),
        "clock_us": round(_clock_cost_ns() / 1000, 2),
        "cpu_us": _over_repetitions([run.cpu_ns for run in runs]),
        "wall_us": _over_repetitions([run.wall_ns for run in runs]),
    }


def run_once(options: Options) -> Repetition:
    """Have all workers ask at once."""
    each = options.requests // options.workers
    limits = KeyLimits(requests=options.limit, window_s=_LONG_S)
    with tempfile.TemporaryDirectory() as directory:

        def work(number: int, wait: Callable[[], None], words: memoryview[int]) -> None:
            limiter = LocalLimiter(Path(directory, "limits"), number)
            asyncio.run(_ask(limiter, limits, words, wait))

        parts = _together(options.workers, 1 + 2 * each, work)
    return Repetition(
        admitted=sum(part[0] for part in parts),
        cpu_ns=[value for part in parts for value in part[1 : 1 + each]],
        wall_ns=[value for part in parts for value in part[1 + each :]],
    )


async def _ask(
    limiter: LocalLimiter, limits: KeyLimits, words: memoryview[int], wait: Callable[[], None]
) -> None:
    # What a process pays once, and what a fork pays for each page that it first touches.
    for _ in range(_WARMUP):
        await limiter.reserve("another", limits)
    await limiter.usage(_KEY, limits)  # opens the key's file
    wait()
    count = len(words) // 2
    cpu_ns, wall_ns = time.thread_time_ns, time.perf_counter_ns
    for number in range(1, 1 + count):
        wall, cpu = wall_ns(), cpu_ns()
        grant = await limiter.reserve(_KEY, limits)
        cpu_end, wall_end = cpu_ns(), wall_ns()
        words[0] += grant.decision.allowed
        words[number] = cpu_end - cpu
        words[number + count] = wall_end - wall


def _together(
    workers: int, words: int, work: Callable[[int, Callable[[], None], memoryview[int]], None]
) -> list[list[int]]:
    """Fork workers, start them at the same moment, and return what each wrote in its words."""
    ready, go = os.pipe(), os.pipe()
    parts, children = [], []
    for number in range(workers):
        memory = memoryview(mmap.mmap(-1, _WORD_BYTES * words)).cast("q")
        parts.append(memory)
        child = os.fork()
        if child == 0:
            _be_worker(number, ready[1], go, work, memory)
        children.append(child)
    os.close(ready[1])
    os.close(go[0])
    waiting = 0
    while waiting < workers and (told := os.read(ready[0], workers)):
        waiting += len(told)
    os.close(go[1])  # which all of them wait for
    ends = [os.waitpid(child, 0)[1] for child in children]
    os.close(ready[0])
    if any(ends):
        message = f"a worker failed: {ends}"
        raise RuntimeError(message)
    return [list(memory) for memory in parts]


def _be_worker(
    number: int,
    ready: int,
    go: tuple[int, int],
    work: Callable[[int, Callable[[], None], memoryview[int]], None],
    memory: memoryview[int],
) -> None:
    """Do the child's part, and end it."""

    def wait() -> None:
        os.close(go[1])
        os.write(ready, b".")
        os.read(go[0], 1)

    status = 1
    try:
        work(number, wait, memory)
        status = 0
    finally:
        os._exit(status)


def _over_repetitions(runs: list[list[int]]) -> dict[str, dict[str, float]]:
    """Return each percentile's median over the repetitions, with the least and the most."""
    found: dict[str, list[float]] = {name: [] for name in ("p50", "p90", "p99", "max")}
    for values in runs:
        ordered = sorted(values)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            place = min(len(ordered) - 1, int(share * len(ordered)))
            found[name].append(ordered[place] / 1000)
    return {
        name: {
            "median": round(statistics.median(values), 1),
            "min": round(min(values), 1),
            "max": round(max(values), 1),
        }
        for name, values in found.items()
    }


def _clock_cost_ns() -> int:
    """Return what reading the two clocks adds to each measured time, about."""
    costs = []
    for _ in range(1000):
        started = time.thread_time_ns()
        time.perf_counter_ns()
        costs.append(time.thread_time_ns() - started)
    return round(statistics.median(costs))


def main(arguments: list[str]) -> None:
    """Measure and print JSON."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m bench.limits")
    for name in Options.__struct_fields__:
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    options = Options(**vars(parser.parse_args(arguments)))
    if min(options.workers, options.limit, options.repetitions) < 1:
        parser.error("workers, limit and repetitions must be at least 1")
    if options.requests < options.workers:
        parser.error("there must be at least one request for each worker")
    print(json.dumps(measure(options), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
