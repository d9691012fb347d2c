"""`python -m bench.simulate`: 2 to 512 replicas, 1 to 64 gateways, in simulated time."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.simulate.replica import Device
from bench.simulate.world import Outcome, Plan, World
from vgate.frontend.routing import POLICIES

_SIZES = ((2, 1), (8, 2), (32, 4), (128, 16))
_HEADS = (
    *("replicas", "gateways", "policy", "deaths", "requests/s", "tokens/s", "TTFT p50", "p99"),
    *("hits", "seen before", "decision us", "reports/s", "kB/s", "report us", "cores", "router MB"),
)


def main(arguments: Sequence[str]) -> int:
    """Simulate each size with each policy; print a line for each, and write the JSON file."""
    options = _parser().parse_args(arguments)
    print("| " + " | ".join(_HEADS) + " |")
    print("| " + " | ".join("---" for _ in _HEADS) + " |")
    results: list[dict[str, Any]] = []
    for replicas, gateways in options.sizes:
        for policy in options.policies:
            device = Device(kv_cache_tokens=options.kv_tokens)
            plan = Plan(
                *(replicas, gateways, policy, options.rate, options.seconds),
                options.kill_every,
                device=device,
            )
            began = time.monotonic()
            outcome = World(plan).run()
            print(_row(plan, outcome), flush=True)
            took_s = time.monotonic() - began
            results.append({**plan._asdict(), **outcome._asdict(), "took_s": took_s})
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    return 0


def _row(plan: Plan, outcome: Outcome) -> str:
    deaths = f"every {plan.kill_every_s:.0f} s" if plan.kill_every_s else "none"
    # What a gateway spends on all of its requests, and on reports.
    decisions = outcome.requests_per_s / plan.gateways * outcome.decision_us / 1e6
    cores = decisions + outcome.reports_per_s * outcome.report_us / 1e6
    cells = (
        *(f"{plan.replicas}", f"{plan.gateways}", plan.policy, deaths),
        *(f"{outcome.requests_per_s:,.0f}", f"{outcome.tokens_per_s:,.0f}"),
        *(f"{outcome.ttft_p50_s * 1e3:,.0f} ms", f"{outcome.ttft_p99_s:,.2f} s"),
        *(f"{outcome.hits:.1%}", f"{outcome.could_hit:.1%}", f"{outcome.decision_us:.0f}"),
        *(f"{outcome.reports_per_s:,.0f}", f"{outcome.report_bytes_per_s / 1e3:,.0f}"),
        *(f"{outcome.report_us:.0f}", f"{cores:.2f}", f"{outcome.router_bytes / 1e6:,.1f}"),
    )
    return "| " + " | ".join(cells) + " |"


def _size(text: str) -> tuple[int, int]:
    replicas, _, gateways = text.partition("x")
    return int(replicas), int(gateways or 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        default=_SIZES,
        metavar="REPLICASxGATEWAYS",
        help="default 2x1 8x2 32x4 128x16",
    )
    parser.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--rate", type=float, default=2.0, help="requests/s for each replica")
    parser.add_argument("--seconds", type=float, default=100.0, help="simulated; default 100")
    parser.add_argument("--kv-tokens", type=int, default=400_000, help="default 400000")
    parser.add_argument("--kill-every", type=float, default=0.0, metavar="S", help="0: never")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
