"""`python -m bench.chaos`: exit status 0 if every outcome is right or explained, otherwise 1.

Ctrl-C ends it; it says what was done and seen until then.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench.chaos.answers import ServerError, WrongError
from bench.chaos.clients import Clients, Tally
from bench.chaos.deck import deck
from bench.chaos.faults import KINDS, inflict, left_out_because
from bench.chaos.instance import Instance, workplace
from bench.chaos.victim import Fault, NotRecoveredError, Victim

# Deaths that the launcher allows: all of them, each followed by a quick start.
_SETTINGS = {
    "supervision__max_restarts": 1_000_000,
    "supervision__restart_window_s": 0.5,
    "supervision__hang_timeout_s": 5,
    "batch__max_num_seqs": 32,
    "dry_run__step_ms": 5,
    "server__workers": 2,
    "server__stream_keepalive_s": 1,
    "server__write_timeout_s": 5,
    # Counted, and never reached.
    "security__rate_limiting__enabled": True,
    "security__rate_limiting__default_limit": 1_000_000,
    "security__rate_limiting__default_tokens_per_minute": 1_000_000_000,
    "security__rate_limiting__default_concurrent": 10_000,
}
# Requests of each client, which takes them in turn. No two clients have the same, nor one twice in
# a row: a request is refused for a while after engines died with it.
_OWN_ASKS = 5
_PROGRESS_S = 10.0
_STOPPED = "stopped by Ctrl-C"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run.

    Attributes:
        pause_s: Mean time between a recovery and the next fault.
        patience_s: The longest that a request and a recovery may take.
        model: A model's directory for vLLM; None for the simulated engine.
    """

    seconds: float = 60.0
    seed: int = 0
    clients: int = 32
    kinds: tuple[str, ...] = tuple(KINDS)
    pause_s: float = 1.0
    patience_s: float = 90.0
    most_faults: int = 1_000_000
    model: str | None = None
    settings: dict[str, object] = {}


class Outcome(msgspec.Struct):
    """What a run did and saw. Times are seconds from its beginning."""

    plan: Plan
    seconds: float
    faults: list[Fault]
    tally: Tally
    own_deaths: int = 0
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every outcome is right or explained, and some answers outlived what died."""
        died = any(fault.deaths == "engine" for fault in self.faults)
        outlived = [count for deaths, count in self.tally.spanned.items() if deaths >= died]
        return self.problem is None and not self.tally.unexplained and bool(outlived)


async def run(plan: Plan, instance: Instance) -> Outcome:
    """Load a started instance and inflict faults on it, until it is cancelled at the latest."""
    faults: list[Fault] = []
    clients = Clients(instance, faults, plan.patience_s)
    rng = random.Random(plan.seed)
    kinds = in_turn(plan.kinds, rng)
    outcome = Outcome(plan, 0.0, faults, clients.tally)
    try:
        asks = deck(plan.seed, _OWN_ASKS * plan.clients, simulated=plan.model is None)
        learned = await clients.learn(asks)
    except (WrongError, ServerError, OSError) as error:
        outcome.problem = f"without faults: {error}"
        return outcome
    except asyncio.CancelledError:
        outcome.problem = f"{_STOPPED} before the first fault"
        return outcome
    began = time.monotonic()
    over = False
    runs = [
        asyncio.ensure_future(clients.run(learned[number :: plan.clients], lambda: not over))
        for number in range(plan.clients)
    ]
    victim = Victim(instance, rng, plan.patience_s)
    progress = asyncio.ensure_future(show_progress(outcome, began))
    try:
        try:
            while time.monotonic() - began < plan.seconds and len(faults) < plan.most_faults:
                await asyncio.sleep(plan.pause_s * rng.uniform(0.5, 1.5))
                fault = Fault(next(kinds), time.monotonic())
                faults.append(fault)
                await inflict(fault.kind, victim, fault)
        except NotRecoveredError as error:
            outcome.problem = str(error)
        over = True
        await asyncio.gather(*runs)
    except asyncio.CancelledError:
        outcome.problem = _STOPPED
        # Nobody knows what would have come of these.
        for client in runs:
            client.cancel()
        await asyncio.wait(runs)
    progress.cancel()
    clients.close()
    outcome.own_deaths = len(instance.own_deaths)
    outcome.seconds = time.monotonic() - began
    for fault in faults:
        fault.began = round(fault.began - began, 3)
        if fault.ended:
            fault.ended = round(fault.ended - began, 3)
    if not instance.alive:
        outcome.problem = f"the server ended: {instance.log_tail()}"
    return outcome


async def show_progress(outcome: Outcome, began: float) -> None:
    """Write a line about a run to stderr at times, until cancelled."""
    while True:
        await asyncio.sleep(_PROGRESS_S)
        seconds, answers = time.monotonic() - began, outcome.tally.outcomes
        counts = ", ".join(f"{count} {name}" for name, count in sorted(answers.items()))
        line = f"[{seconds:4.0f} s] faults: {len(outcome.faults)}; answers: {counts or 'none'}"
        print(line, file=sys.stderr, flush=True)


def in_turn(kinds: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Return all kinds in a random order, then in another one, without end."""
    while True:
        yield from rng.sample(kinds, len(kinds))


def possible(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the faults that can be inflicted on this machine, and say why others can't."""
    reasons = {kind: left_out_because(kind) for kind in kinds}
    for kind, reason in reasons.items():
        if reason:
            print(f"bench.chaos: {kind} is left out: {reason}", file=sys.stderr)
    return tuple(kind for kind in kinds if not reasons[kind])


def main(arguments: Sequence[str]) -> int:
    """Run, print what was done and seen, write the JSON file; return the exit status."""
    options = _parser().parse_args(arguments)
    kinds = tuple(options.faults.split(",")) if options.faults else tuple(KINDS)
    if unknown := set(kinds) - set(KINDS):
        print(f"bench.chaos: no such fault: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    kinds = possible(kinds)
    if not kinds:
        return 2
    plan = Plan(
        seconds=options.seconds,
        seed=options.seed if options.seed is not None else random.randrange(2**32),
        clients=options.clients,
        kinds=kinds,
        pause_s=options.pause,
        patience_s=options.patience,
        most_faults=options.most_faults,
        model=options.model,
        settings=dict(setting.split("=", 1) for setting in options.set),
    )
    try:
        with workplace("chaos") as directory, start(plan, directory) as instance:
            outcome = asyncio.run(run(plan, instance))
    except KeyboardInterrupt:
        print(f"bench.chaos: {_STOPPED} while the server started or ended", file=sys.stderr)
        return 1
    print(table(outcome))
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
    return 0 if outcome.passed else 1


def start(plan: Plan, directory: Path) -> Instance:
    """Return the instance of a plan, which is started by entering it."""
    return Instance(
        directory,
        {
            **_SETTINGS,
            "supervision__hold_requests_s": plan.patience_s,
            **plan.settings,
        },
        plan.model,
        small_disk="full_disk" in plan.kinds,
        loose_clock="clock_jump" in plan.kinds,
    )


def table(outcome: Outcome) -> str:
    """Return what was done and seen, as text."""
    tally, plan = outcome.tally, outcome.plan
    done = Counter(fault.kind for fault in outcome.faults)
    rows: list[tuple[str, object]] = [
        ("seed", plan.seed),
        ("seconds", round(outcome.seconds)),
        ("clients", plan.clients),
        ("engines that failed by themselves", outcome.own_deaths),
        *((f"fault: {kind}", count) for kind, count in sorted(done.items())),
        *((f"answers: {name}", count) for name, count in sorted(tally.outcomes.items())),
        *((f"right over {n} deaths of engines", c) for n, c in sorted(tally.spanned.items())),
        *((f"right: {kind}", count) for kind, count in sorted(tally.kinds.items())),
        *((f"excused: {why}", count) for why, count in sorted(tally.excused.items())),
        ("longest request, s", round(tally.longest_s, 1)),
    ]
    lines = [f"{name:<40} {value}" for name, value in rows]
    lines += [
        f"UNEXPLAINED {one.kind} after {one.seconds:.1f} s: {one.ask.kind}: {one.what}"
        for one in tally.unexplained[:20]
    ]
    if outcome.problem:
        lines.append(f"PROBLEM {outcome.problem}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="how long faults are inflicted (60)")
    add("--seed", type=int, help="of the requests, the faults and their times")
    add("--clients", type=int, default=32, help="requests at a time (32)")
    add("--faults", metavar="KIND,...", help=f"which ones (all): {', '.join(KINDS)}")
    add("--pause", type=float, default=1.0, help="mean seconds from a recovery to the next (1)")
    add("--patience", type=float, default=90.0, help="most seconds of a request or recovery (90)")
    add("--most-faults", type=int, default=1_000_000, help="end after so many")
    add("--model", metavar="DIR", help="serve it with vLLM instead of the simulated engine")
    add("--set", action="append", default=[], metavar="SECTION__KEY=VALUE", help="configuration")
    add("--json", metavar="FILE", help="write the outcome there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
