"""`python -m bench.soak`: a mixed load at a bounded rate for a long time, and what grows meanwhile.

Exit status 0 if nothing grew in the last half and every answer was right, otherwise 1.
"""

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from bench.chaos.answers import ServerError, WrongError
from bench.chaos.clients import Clients
from bench.chaos.deck import Ask, deck
from bench.chaos.instance import Instance, workplace
from bench.compare.service import descendants
from bench.load.answer import Answer
from bench.load.connection import Pool
from bench.load.processes import memory_kib, read_process

# Bounds of what V-Gate keeps are low, so that all of it is full long before the last half.
_SETTINGS: dict[str, object] = {
    "server__workers": 2,
    "batch__max_batch_size": 32,
    "dry_run__step_ms": 20,
    "cache__enabled": True,
    "cache__maxsize": 500,
    "responses__max_entries_per_key": 200,
    "security__rate_limiting__enabled": True,
    "security__rate_limiting__default_limit": 1_000_000,
    "security__rate_limiting__default_tokens_per_minute": 1_000_000_000,
    "security__rate_limiting__default_concurrent": 1000,
}
_REPEATED = 60
_MIB = 1024 * 1024

# What is read of each process and directory, and how much of it the last half may add.
BOUNDS = {"MiB": 2.0, "descriptors": 3.0, "threads": 3.0, "files": 3.0}


class Series(msgspec.Struct, frozen=True):
    """One value over time; its unit is a key of `BOUNDS`, or it is only shown."""

    name: str
    unit: str
    seconds: list[float]
    values: list[float]

    @property
    def half(self) -> float:
        """The value when half of the time is over."""
        middle = self.seconds[-1] / 2
        return next(v for s, v in zip(self.seconds, self.values, strict=True) if s >= middle)

    @property
    def growth(self) -> float:
        """What the last half has added, by the straight line that fits it best."""
        middle = self.seconds[-1] / 2
        last = [(s, v) for s, v in zip(self.seconds, self.values, strict=True) if s >= middle]
        mean_s = sum(s for s, _ in last) / len(last)
        mean_v = sum(v for _, v in last) / len(last)
        spread = sum((s - mean_s) ** 2 for s, _ in last)
        slope = sum((s - mean_s) * (v - mean_v) for s, v in last) / spread if spread else 0.0
        return slope * (last[-1][0] - last[0][0])

    @property
    def grows(self) -> bool:
        """Whether that is more than its unit's bound."""
        return self.growth > BOUNDS.get(self.unit, float("inf"))


class Recorder:
    """Reads the instance's processes and directories."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._began = time.monotonic()
        self._read: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)

    def read(self) -> None:
        """Add the values of now."""
        now = time.monotonic() - self._began
        for name, unit, value in [*self._processes(), *self._directories()]:
            self._read[name, unit].append((now, value))

    @property
    def series(self) -> list[Series]:
        """All values so far."""
        return [
            Series(name, unit, [s for s, _ in read], [v for _, v in read])
            for (name, unit), read in self._read.items()
        ]

    def _processes(self) -> Iterator[tuple[str, str, float]]:
        for pid in descendants(self._instance.pid):
            with suppress(OSError):
                process = Path(f"/proc/{pid}")
                command = process.joinpath("cmdline").read_bytes().split(b"\0")
                role = next((part.decode() for part in command if part.startswith(b"vgate.")), "?")
                name = f"{role.removeprefix('vgate.')} {pid}"
                memory = memory_kib(pid)
                private = memory["Private_Clean"] + memory["Private_Dirty"]
                yield f"{name} USS", "MiB", private / 1024
                yield f"{name} PSS", "MiB (shown)", memory["Pss"] / 1024
                yield f"{name} RSS", "MiB (shown)", memory["Rss"] / 1024
                yield name, "descriptors", _count(process / "fd")
                yield name, "threads", _count(process / "task")
                if (reading := read_process(pid)) is not None:
                    yield name, "CPU s (shown)", reading.cpu_s

    def _directories(self) -> Iterator[tuple[str, str, float]]:
        for name in ("run", "state"):
            files = [
                path for path in self._instance.disk.joinpath(name).rglob("*") if path.is_file()
            ]
            yield name, "files", len(files)
            with suppress(FileNotFoundError):
                yield name, "MiB", sum(path.stat().st_size for path in files) / _MIB
        # Other programs' are among them.
        yield "/dev/shm", "files (shown)", _count(Path("/dev/shm"))
        yield "log", "lines (shown)", self._instance.lines


def _count(directory: Path) -> int:
    return sum(1 for _ in directory.iterdir())


class Load:
    """Requests one after the other at a rate; each is of a random sort."""

    def __init__(self, instance: Instance, seed: int, rate: float) -> None:
        self._instance = instance
        self._clients = Clients(instance, [])
        self._pool = Pool(instance.target, keepalive=False)
        self._rng = random.Random(seed)
        self._rate = rate
        self._seeds = itertools.count(seed + 1)
        self._fresh: list[Ask] = []
        self._known: dict[int, Any] = {}
        self._repeated = deck(seed, _REPEATED, simulated=True)
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> None:
        """Send until the time is over, and wait for the answers."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until and self._instance.alive:
                group.create_task(self._one())
                await asyncio.sleep(self._rng.expovariate(self._rate))
        self._clients.close()

    async def _one(self) -> None:
        sorts = (self._new, self._repeat, self._stored, self._other, self._leave)
        sort = self._rng.choices(sorts, (45, 20, 10, 15, 10))[0]
        try:
            self.outcomes[await sort()] += 1
        except (WrongError, ServerError, OSError, TimeoutError, KeyError, ValueError) as error:
            self.outcomes["wrong"] += 1
            self.wrong.append(f"{sort.__name__}: {type(error).__name__}: {error}"[:400])

    async def _new(self) -> str:
        if not self._fresh:
            self._fresh = deck(next(self._seeds), 24, simulated=True)
        await self._clients.said(self._fresh.pop())
        return "new"

    async def _repeat(self) -> str:
        number = self._rng.randrange(_REPEATED)
        said = await self._clients.said(self._repeated[number])
        if said != self._known.setdefault(number, said):
            raise WrongError(f"{said} instead of {self._known[number]}")
        return "repeated"

    async def _stored(self) -> str:
        """Store a response, and continue it."""
        ask: dict[str, Any] = {"input": self._word(), "max_output_tokens": 32}
        first = await self._exchange("POST", "/v1/responses", HTTPStatus.OK, ask)
        ask["previous_response_id"] = msgspec.json.decode(first)["id"]
        await self._exchange("POST", "/v1/responses", HTTPStatus.OK, ask)
        return "stored"

    async def _other(self) -> str:
        """Ask for what needs no engine, or what is refused."""
        text = self._word()
        chat = "/v1/chat/completions"
        messages = [{"role": "user", "content": text}]
        whole: dict[str, Any] = {"messages": messages, "max_tokens": 4}
        choices: list[tuple[str, str, int, Any]] = [
            ("GET", "/stats", 200, None),
            ("GET", "/metrics", 200, None),
            ("GET", "/v1/models", 200, None),
            ("GET", f"/{text.split()[0]}", 404, None),
            ("GET", f"/v1/responses/{text.split()[0]}", 404, None),
            ("POST", "/tokenize", 200, {"prompt": text}),
            ("POST", "/v1/messages/count_tokens", 200, {"model": "", "messages": messages}),
            ("POST", chat, 400, {text: 1}),
            ("POST", chat, 400, {**whole, "temperature": text}),
            ("POST", chat, 400, {**whole, "messages": text}),
            ("POST", chat, 401, whole),
            ("POST", "/v1/messages", 401, whole),
        ]
        method, path, expected, body = self._rng.choice(choices)
        await self._exchange(method, path, expected, body)
        return f"other: {expected}"

    async def _leave(self) -> str:
        """Ask for a long stream, and leave before its end."""
        messages = [{"role": "user", "content": self._word()}]
        ask = {"messages": messages, "stream": True, "ignore_eos": True}
        with suppress(TimeoutError):
            await asyncio.wait_for(
                self._exchange("POST", "/v1/chat/completions", HTTPStatus.OK, ask),
                self._rng.uniform(0.05, 1.0),
            )
        return "left"

    def _word(self) -> str:
        """Return words that were never said before."""
        return f"w{self._rng.getrandbits(60):x} {self._rng.getrandbits(60):x}"

    async def _exchange(self, method: str, path: str, expected: int, body: Any) -> bytes:
        """Send on a connection of its own; a request for a 401 has an unknown key."""
        key = self._instance.key if expected != HTTPStatus.UNAUTHORIZED else self._word()
        content = b"" if body is None else msgspec.json.encode({"model": "", **body})
        answer = Answer(time.perf_counter())
        await self._pool.send(method, path, content, answer, key=key, limit_s=120.0)
        if answer.status != expected:
            raise WrongError(f"{answer.status} {answer.detail} to {method} {path}")
        return answer.body


def table(series: Sequence[Series]) -> str:
    """Return the values at half and at the end of the time, and what grew, as text."""
    lines = [f"{'':<28}{'unit':<14}{'first':>9}{'half':>9}{'end':>9}{'added by the last half':>24}"]
    lines += [
        f"{one.name:<28}{one.unit:<14}{one.values[0]:>9.1f}{one.half:>9.1f}{one.values[-1]:>9.1f}"
        f"{one.growth:>24.2f}{'  GROWS' if one.grows else ''}"
        for one in series
    ]
    return "\n".join(lines)


async def run(load: Load, recorder: Recorder, seconds: float, every_s: float) -> None:
    """Load, and record meanwhile."""
    running = asyncio.ensure_future(load.run(seconds))
    while not running.done():
        recorder.read()
        await asyncio.wait([running], timeout=every_s)
        print(sum(load.outcomes.values()), "requests", file=sys.stderr, flush=True)
    await running
    recorder.read()


def main(arguments: Sequence[str]) -> int:
    """Run, and print what grew and what was answered; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=3600.0, help="how long (3600)")
    add("--rate", type=float, default=8.0, help="requests/s (8)")
    add("--every", type=float, default=30.0, help="seconds between two readings (30)")
    add("--seed", type=int, default=0, help="of the requests")
    add("--set", action="append", default=[], metavar="SECTION__KEY=VALUE", help="configuration")
    add("--json", metavar="FILE", help="write all readings there")
    options = parser.parse_args(arguments)
    settings = {**_SETTINGS, **dict(setting.split("=", 1) for setting in options.set)}
    with workplace("soak") as directory, Instance(directory, settings, None) as instance:
        load = Load(instance, options.seed, options.rate)
        recorder = Recorder(instance)
        asyncio.run(run(load, recorder, options.seconds, options.every))
        alive = instance.alive
    print(table(recorder.series))
    print("\n".join(f"{name:<28}{count}" for name, count in sorted(load.outcomes.items())))
    print("\n".join(f"WRONG {what}" for what in load.wrong[:20]))
    if options.json:
        Path(options.json).write_bytes(msgspec.json.encode(recorder.series))
    grows = any(one.grows for one in recorder.series)
    return 1 if grows or load.wrong or not alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
