"""Requests in random order over more models than fit, while engines are killed.

    python -m bench.on_demand [--requests 2000] [--models 6] [--room 2] [--kills 20]
    python -m bench.on_demand --model DIR --model DIR ... --room 1 --rate 1 --memory-mib 2048

A V-Gate of its own serves the models on demand, simulated ones or, with --model, vLLM's. Each
model's answers are its own, and known. Exit status 0 if every request was answered right, or was
refused with the reason within its deadline, none was cut by a swap, and the engines never took more
memory than is allowed; otherwise 1. The loads are compared with those of a schedule that knows the
same requests before and keeps the same rules (`bench.swaps`).
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.chaos.instance import workplace
from bench.on_demand.load import Load
from bench.on_demand.plan import Plan, start, table


def main(arguments: Sequence[str]) -> int:
    """Run, and print what was seen; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.on_demand", description=__doc__)
    add, plain = parser.add_argument, Plan()
    for name in ("requests", "models", "room", "kills", "seed", "memory-mib"):
        add(f"--{name}", type=int, default=getattr(plain, name.replace("-", "_")))
    for name in ("rate", "min-loaded-s", "max-wait-s", "deadline-s"):
        add(f"--{name}", type=float, default=getattr(plain, name.replace("-", "_")))
    add("--model", action="append", default=[], metavar="DIR", help="serve it with vLLM")
    add("--json", metavar="FILE", help="write the outcome, with all requests, there")
    options = vars(parser.parse_args(arguments))
    file, directories = options.pop("json"), options.pop("model")
    if directories:
        options |= {"models": len(directories), "directories": tuple(directories)}
    plan = Plan(**options)
    with workplace("on_demand") as directory, start(plan, directory) as instance:
        outcome = asyncio.run(Load(plan, instance).run())
    print(table(outcome))
    if file:
        Path(file).write_bytes(msgspec.json.encode(outcome))
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
