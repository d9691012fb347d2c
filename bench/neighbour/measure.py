"""Alternates quiet and attacked phases, and measures the neighbour's chats and the loop's holds."""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Self

import msgspec

from bench.load.answer import Answer
from bench.load.connection import Pool
from bench.load.target import resolve
from bench.loop_holds import Hold, recorded
from bench.neighbour.attacks import HOST, KEY, run
from bench.neighbour.bodies import CHAT

QUIET_KEY = "quiet-key"
KEYS = [
    {"name": name, "key": key, "rate_limit": 1_000_000}
    for name, key in (("quiet", QUIET_KEY), ("noisy", KEY))
]
# Of a V-Gate that is measured.
SETTINGS: dict[str, object] = {
    "server__workers": 1,
    "batch__max_batch_size": 128,
    "dry_run__step_ms": 1,
    "dry_run__prefill_tokens_per_s": 10_000_000,
    "dry_run__kv_cache_tokens": 10_000_000,
    "security__enabled": True,
    "security__api_keys": KEYS,
}
_PREPARED_S = 120.0
_ENDED_S = 150.0
_FALLS_SILENT_S = 1.0


class Phase(msgspec.Struct):
    """What was seen in the quiet or in the attacked phases.

    Attributes:
        times_s: Of each chat, from when it was due.
        holds: Of the worker's loop.
    """

    times_s: list[float] = []
    holds: list[Hold] = []

    def time_s(self, share: float) -> float:
        """Return a percentile of the chats' times."""
        return sorted(self.times_s)[min(len(self.times_s) - 1, int(share * len(self.times_s)))]

    @property
    def latest(self) -> Hold:
        """The hold after which the loop was latest."""
        return max(self.holds, key=lambda hold: hold.late_s, default=Hold(*[0.0] * 5))

    @property
    def loop_s(self) -> float:
        """The most processor time that the loop took between two turns."""
        return max((hold.loop_s for hold in self.holds), default=0.0)

    @property
    def process_s(self) -> float:
        """The most that the process took meanwhile."""
        return max((hold.process_s for hold in self.holds), default=0.0)


class Seen(msgspec.Struct):
    """The outcome of one attack."""

    attack: str
    quiet: Phase
    attacked: Phase

    @property
    def allowed_s(self) -> float:
        """What the neighbour's p99 may be."""
        return 2 * self.quiet.time_s(0.99) + 0.05


def chats(port: int, pipe: Pipe) -> None:
    """Send short chats at a steady pace when told for how long: the neighbour's process."""
    asyncio.run(_chats(port, pipe))


async def _chats(port: int, pipe: Pipe) -> None:
    target = resolve(f"http://{HOST}:{port}", allow_remote=False)
    pool = Pool(target, keepalive=True)

    async def one(due: float) -> float:
        body = json.dumps({"messages": [{"role": "user", "content": f"hi {due}"}], "max_tokens": 4})
        answer = Answer(due)
        await pool.send("POST", CHAT, body.encode(), answer, key=QUIET_KEY, limit_s=60)
        assert answer.error is None, (answer.error, answer.detail)
        return time.monotonic() - due

    while (task := pipe.recv()) is not None:
        seconds, per_s = task
        due, until, sent = time.monotonic(), time.monotonic() + seconds, []
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent.append(asyncio.ensure_future(one(due)))
            due += 1 / per_s
        pipe.send(await asyncio.gather(*sent))


class Neighbour:
    """The process of the quiet key; a context manager."""

    def __init__(self, port: int) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=chats, args=(port, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._pipe.send(None)
        self._process.join(_ENDED_S)

    def times(self, seconds: float, per_s: float) -> list[float]:
        """Return the times of the chats of so many seconds."""
        self._pipe.send((seconds, per_s))
        times: list[float] = self._pipe.recv()
        return times


def measure(
    port: int,
    holds: Path,
    neighbour: Neighbour,
    attack: str,
    *,
    rounds: int,
    phase_s: float,
    per_s: float,
) -> Seen:
    """Measure one attack on a V-Gate that records its holds in a directory."""
    context = get_context("spawn")
    ready, go, stop = context.Event(), context.Event(), context.Event()
    attacker = context.Process(target=run, args=(attack, port, ready, go, stop), daemon=True)
    attacker.start()
    seen = Seen(attack, Phase(), Phase())
    try:
        assert ready.wait(_PREPARED_S), "the attack is prepared"
        neighbour.times(_FALLS_SILENT_S, per_s)
        for _ in range(rounds):
            for phase, attacked in ((seen.quiet, False), (seen.attacked, True)):
                if attacked:
                    go.set()
                begun = time.monotonic()
                phase.times_s += neighbour.times(phase_s, per_s)
                phase.holds += [hold for hold in recorded(holds) if hold.at > begun]
                go.clear()
            # What was sent is still being worked on.
            neighbour.times(_FALLS_SILENT_S, per_s)
    finally:
        stop.set()
        attacker.join(_ENDED_S)
    assert attacker.exitcode == 0, f"the attack {attack!r} ended with {attacker.exitcode}"
    return seen


def table(outcomes: Sequence[Seen]) -> str:
    """Return the table of all attacks, in milliseconds."""
    columns = (
        *("attack", "quiet p50", "p99", "attacked p50", "p99", "allowed"),
        *("loop late", "of it queued", "loop's CPU", "process's CPU"),
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for seen in outcomes:
        quiet, attacked = seen.quiet, seen.attacked
        times = (
            *(quiet.time_s(0.5), quiet.time_s(0.99)),
            *(attacked.time_s(0.5), attacked.time_s(0.99), seen.allowed_s),
            *(attacked.latest.late_s, attacked.latest.queued_s),
            *(attacked.loop_s, attacked.process_s),
        )
        cells = " | ".join(f"{1000 * seconds:.1f}" for seconds in times)
        lines.append(f"| {seen.attack} | {cells} |")
    return "\n".join(lines)


def machine() -> str:
    """Return what the times depend on."""
    load = os.getloadavg()[0]
    return f"{len(os.sched_getaffinity(0))} cores, load average {load:.1f}"
