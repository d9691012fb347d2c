"""`python -m bench.neighbour`: exit status 0 if every attack was within its bound, otherwise 1."""

import argparse
import os
import sys

from bench import loop_holds
from bench.chaos.instance import Instance, workplace
from bench.load.options import positive
from bench.neighbour.attacks import ATTACKS
from bench.neighbour.measure import SETTINGS, Neighbour, Seen, machine, measure, table


def main() -> int:
    """Measure as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.neighbour", description=__doc__)
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="all of them otherwise")
    parser.add_argument("--rounds", type=positive, default=4, help="quiet and attacked, in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a phase")
    parser.add_argument("--rate", type=float, default=20.0, help="its chats per second")
    options = parser.parse_args()
    outcomes: list[Seen] = []
    print(machine())
    with workplace("neighbour") as directory:
        holds = directory / "holds"
        holds.mkdir()
        os.environ |= loop_holds.environment(holds)
        with (
            Instance(directory, SETTINGS, None) as server,
            Neighbour(server.target.port) as neighbour,
        ):
            for attack in options.attack or ATTACKS:
                seen = measure(
                    server.target.port,
                    holds,
                    neighbour,
                    attack,
                    rounds=options.rounds,
                    phase_s=options.seconds,
                    per_s=options.rate,
                )
                outcomes.append(seen)
                print(table([seen]).splitlines()[-1], flush=True)
    print(table(outcomes))
    late = [seen.attack for seen in outcomes if seen.attacked.time_s(0.99) > seen.allowed_s]
    if late:
        print("beyond the bound:", ", ".join(late))
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
