"""`python -m bench.replicas`: kills replicas under streams, and checks every token.

Exit status 0 if no client saw an error or a wrong token, and moved streams went on soon enough.
"""

import argparse
import asyncio
import math
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.chaos.instance import Instance, workplace
from bench.hosts import Hosts, deployed
from bench.load.answer import StreamAnswer
from bench.load.connection import Pool
from bench.load.events import Choice
from bench.load.histogram import Histogram

_PATH = "/v1/chat/completions"
_PATIENCE_S = 120.0
_AFTER_ERROR_S = 0.5
_WRONG = "wrong_token"
_RESUMED = re.compile(rb"^vgate_resumed_requests_total (\S+)$", re.MULTILINE)
# The prompt tokens that the simulated engine reads in a step.
_STEP_TOKENS = 2048
# A gap that begins so long after a kill has another reason.
_AFTER_S = 1.0
_SETTINGS = {
    "supervision__max_restarts": 1_000_000,
    "supervision__restart_window_s": 0.5,
    "batch__max_num_seqs": 256,
    "server__workers": 2,
    "security__rate_limiting__enabled": False,
    # Prompts take no time but that of the steps that read them.
    "dry_run__prefill_tokens_per_s": 1e9,
}


class Kill(msgspec.Struct):
    """A kill, at `at` seconds of `time.perf_counter`.

    Attributes:
        moved: How many streams went on in another replica because of it.
        held: The tokens of all streams at that time, prompts included, and how many streams.
        prefill_s: How long the others took to read what moved, if it was spread evenly.
        gaps_s: The gaps between tokens that were there at that time or began right after it.
    """

    at: float
    moved: int = 0
    held: tuple[int, int] = (0, 0)
    prefill_s: float = 0.0
    gaps_s: list[float] = []

    @property
    def pauses_s(self) -> list[float]:
        """The gaps of the streams that moved, which are the longest."""
        return sorted(self.gaps_s, reverse=True)[: self.moved]

    def end(self, moved: int, others: int, step_s: float) -> None:
        """Note how many streams moved to so many other replicas, which read them in steps."""
        self.moved, (tokens, streams) = moved, self.held
        each = moved / max(1, others) * tokens / max(1, streams)
        self.prefill_s = math.ceil(each / _STEP_TOKENS) * step_s


class Outcome(msgspec.Struct):
    """What the clients saw."""

    ends: Counter[str] = msgspec.field(default_factory=Counter)
    details: list[str] = []
    kills: list[Kill] = []
    tokens: int = 0
    seconds: float = 0.0

    def pause_s(self, share: float, *, net: bool = False) -> float:
        """Return a percentile of the pauses of moved streams, `net` of prefill; 0 if none moved."""
        pauses = [p - net * kill.prefill_s for kill in self.kills for p in kill.pauses_s]
        return percentile(pauses, share)

    def passed(self, most_s: float) -> bool:
        """Whether every stream was right, some moved, and those went on soon enough."""
        moved = sum(kill.moved for kill in self.kills)
        return set(self.ends) == {"right"} and moved > 0 and self.pause_s(0.99, net=True) <= most_s


class Stream(StreamAnswer):
    """A stream that must be `due`; notes the gaps around each kill."""

    def __init__(self, due: str, kills: list[Kill]) -> None:
        super().__init__(time.perf_counter(), 1, {}, Histogram())
        self._due = due
        self._kills = kills
        self.heard = 0

    def _event(self, event: bytes, now: float) -> None:
        began, chunks = self._last, self.chunks
        super()._event(event, now)
        if began and self.chunks > chunks:
            self._note_gap(began, now)

    def _choice(self, choice: Choice) -> bool:
        has_content = super()._choice(choice)
        if has_content and self.text:
            text = self.text[choice.index][-1]
            if not self._due.startswith(text, self.heard):
                due = self._due[self.heard : self.heard + 20]
                self.fail(_WRONG, f"{text!r} instead of {due!r} after {self.heard}")
            self.heard += len(text)
        return has_content

    def _note_gap(self, began: float, now: float) -> None:
        for kill in reversed(self._kills):
            if now < kill.at:
                continue
            if began > kill.at + _AFTER_S:
                return
            kill.gaps_s.append(now - max(began, kill.at))

    def _check_finished(self) -> None:
        if self.heard != len(self._due):
            self.fail(_WRONG, f"{self.heard} of {len(self._due)} characters")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values doesn't exceed; 0 without any."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


class Run:
    """Streams to an instance whose replicas are killed, one every `every_s` seconds."""

    def __init__(self, instance: Instance | Hosts, options: argparse.Namespace) -> None:
        self._instance = instance
        self._options = options
        # Clients are spread over the gateways.
        self._pools = [Pool(target, keepalive=True) for target in instance.targets]
        self._rng = random.Random(options.seed)
        self._over = False
        self._live: dict[Stream, int] = {}
        self.outcome = Outcome()

    async def go(self) -> Outcome:
        """Run, and return what was seen."""
        began = time.perf_counter()
        clients = [asyncio.ensure_future(self._client(n)) for n in range(self._options.streams)]
        await asyncio.sleep(self._options.every)
        while time.perf_counter() - began < self._options.seconds:
            before = await self._moved()
            pids = self._instance.pids("engine")
            held = sum(stream.heard + prompt for stream, prompt in self._live.items())
            kill = Kill(time.perf_counter(), held=(held, len(self._live)))
            self.outcome.kills.append(kill)
            os.kill(self._rng.choice(pids), signal.SIGKILL)
            await asyncio.sleep(self._options.every)
            moved, others = await self._moved() - before, self._options.replicas - 1
            kill.end(moved, others, self._options.step_ms / 1000)
        self._over = True
        await asyncio.gather(*clients)
        for pool in self._pools:
            pool.close()
        self.outcome.seconds = time.perf_counter() - began
        return self.outcome

    async def _client(self, number: int) -> None:
        turns = 0
        # They don't all begin at once.
        await asyncio.sleep(self._options.every * number / self._options.streams)
        while not self._over:
            turns += 1
            words = f"stream {number} turn {turns} says "
            tokens = self._rng.randint(*self._options.tokens)
            await self._stream(self._pools[number % len(self._pools)], words, tokens)

    async def _stream(self, pool: Pool, words: str, tokens: int) -> None:
        body = msgspec.json.encode(
            {
                "model": "",
                "messages": [{"role": "user", "content": words}],
                "stream": True,
                "max_tokens": tokens,
                "ignore_eos": True,
            }
        )
        stream = Stream((words * (tokens // len(words) + 1))[:tokens], self.outcome.kills)
        self._live[stream] = len(words)
        try:
            await pool.send(
                "POST", _PATH, body, stream, key=self._instance.key, limit_s=_PATIENCE_S
            )
        finally:
            del self._live[stream]
        self.outcome.tokens += stream.heard
        self.outcome.ends[stream.error or "right"] += 1
        if stream.error is not None:
            self.outcome.details.append(f"{stream.error}: {stream.detail}")
            await asyncio.sleep(_AFTER_ERROR_S)

    async def _moved(self) -> int:
        """Return how many requests have gone on in another engine."""
        answers = [await pool.get("/metrics", [], 30.0) for pool in self._pools]
        found = [_RESUMED.search(answer.body) for answer in answers]
        return sum(int(float(each[1])) for each in found if each)


def main(arguments: Sequence[str]) -> int:
    """Run and print what was seen; return the exit status."""
    options = options_of(arguments)
    with (
        workplace("replicas") as directory,
        deployed(
            directory, settings_of(options), options.replicas, hosts=options.hosts
        ) as instance,
    ):
        outcome = asyncio.run(Run(instance, options).go())
    print(table(outcome))
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
    return 0 if outcome.passed(options.most_pause) else 1


def settings_of(options: argparse.Namespace) -> dict[str, object]:
    """Return the configuration, as section__key."""
    return {
        **_SETTINGS,
        "dry_run__step_ms": options.step_ms,
        "model__max_model_len": 4096 + max(options.tokens),
        **dict(setting.split("=", 1) for setting in options.set),
    }


def table(outcome: Outcome) -> str:
    """Return what was seen, as text."""
    moved = [kill.moved for kill in outcome.kills]
    rows: list[tuple[str, object]] = [
        ("seconds", round(outcome.seconds)),
        ("tokens/s", round(outcome.tokens / max(1e-9, outcome.seconds))),
        ("kills", len(outcome.kills)),
        ("streams moved", f"{sum(moved)} ({moved})"),
        *((f"streams: {name}", count) for name, count in sorted(outcome.ends.items())),
        *(
            (f"pause of a moved stream, {name}, ms", round(outcome.pause_s(share) * 1000))
            for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
        ),
        ("without its prefill, p99, ms", round(outcome.pause_s(0.99, net=True) * 1000)),
    ]
    lines = [f"{name:<40} {value}" for name, value in rows]
    counts = Counter(outcome.details).most_common(20)
    return "\n".join([*lines, *(f"{count:>6} x {what}" for what, count in counts)])


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=300.0, help="how long replicas are killed (300)")
    add("--every", type=float, default=5.0, help="seconds from one kill to the next (5)")
    add("--replicas", type=int, default=3, help="engines of the model (3)")
    text = "two gateways and two engines' hosts, as network namespaces (needs root)"
    add("--hosts", action="store_true", help=text)
    add("--streams", type=int, default=200, help="streams at a time (200)")
    add("--tokens", type=int, nargs=2, default=(40, 400), help="of an answer (40 to 400)")
    add("--step-ms", type=float, default=50.0, help="the simulated engine's step (50)")
    add("--most-pause", type=float, default=0.5, help="p99 of a pause but for prefill, s (0.5)")
    add("--seed", type=int, default=0, help="of the lengths, and of who is killed")
    add("--set", action="append", default=[], metavar="SECTION__KEY=VALUE", help="configuration")
    add("--json", metavar="FILE", help="write the outcome there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
