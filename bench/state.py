"""What a decision on a request's limits takes with a shared server: against this machine's limiter.

    python -m bench.state --url redis://127.0.0.1:6379
    python -m bench.state --url valkey://127.0.0.1 --requests 5000 --at-once 32

Each decision is one call to the server, which counts requests, tokens and concurrent requests. The
keys in the server begin with `bench`, and end by themselves.
"""

import argparse
import asyncio
import json
import secrets
import tempfile
import time
from contextlib import closing
from pathlib import Path

import uvloop

from vgate.config.schema import State
from vgate.frontend.access.budget import Budgets
from vgate.frontend.access.limiter import KeyLimits, Limiter, LocalLimiter
from vgate.frontend.access.limiter.shared import SharedLimiter
from vgate.frontend.shared_state.server import SharedState

LIMITS = KeyLimits(requests=1_000_000, tokens_per_minute=10**9, concurrent=10_000)
ROUNDS = 5
_READY_S = 60.0


async def decisions_us(limiter: Limiter, requests: int, at_once: int) -> list[float]:
    """Return how long each of so many decisions took, in microseconds, in ascending order."""
    taken: list[float] = []
    key = f"k{secrets.token_hex(4)}"

    async def one_after_the_other() -> None:
        for _ in range(requests // at_once):
            began = time.perf_counter_ns()
            grant = await limiter.reserve(key, LIMITS, 100)
            taken.append((time.perf_counter_ns() - began) / 1000)
            await grant.settle(50)
            await asyncio.sleep(0)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return sorted(taken)


async def run(url: str, requests: int, at_once: int) -> dict[str, dict[str, float]]:
    """Return the percentiles of the quietest of several interleaved rounds."""
    found: dict[str, list[list[float]]] = {"local": [], "shared": []}
    state = State(url=url, prefix="bench", on_failure="refuse", timeout_ms=5000)
    shared = SharedState(asyncio.get_running_loop(), state)
    with tempfile.TemporaryDirectory() as name, closing(shared):
        async with asyncio.timeout(_READY_S):
            # One that was just started is asked only when gateways have told what they know.
            while shared.problems():  # noqa: ASYNC110 - settling ends without an event
                await asyncio.sleep(0.05)
        directory = Path(name)
        local = LocalLimiter(directory / "limits", 1)
        budgets = Budgets(directory / "budgets", 1, lambda _key, _day: 0)
        limiter = SharedLimiter(shared, local, state, "bench", budgets)
        await decisions_us(limiter, at_once * 10, at_once)
        for _ in range(ROUNDS):
            found["local"].append(await decisions_us(local, requests, at_once))
            found["shared"].append(await decisions_us(limiter, requests, at_once))
        local.close()
        budgets.close()
    return {name: _percentiles(min(rounds, key=_median)) for name, rounds in found.items()}


def _median(times: list[float]) -> float:
    return times[len(times) // 2]


def _percentiles(times: list[float]) -> dict[str, float]:
    at = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99}
    return {name: round(times[int(share * (len(times) - 1))], 1) for name, share in at.items()}


def main() -> None:
    """Print the times as a line of JSON each, and what the server adds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="of the server")
    parser.add_argument("--requests", type=int, default=2000, help="decisions of each round")
    parser.add_argument("--at-once", type=int, default=1, help="that wait at the same time")
    options = parser.parse_args()
    found = uvloop.run(run(options.url, options.requests, options.at_once))
    for name, times in found.items():
        print(json.dumps({"limiter": name, **times}))
    added = found["shared"]["p50_us"] - found["local"]["p50_us"]
    print(f"a shared server adds {added / 1000:.3f} ms to a decision at the median")


if __name__ == "__main__":
    main()
