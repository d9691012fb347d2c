"""When requests are sent: a closed loop of clients, or arrivals in an open one; the progress."""

import asyncio
import random
import sys
from collections.abc import Iterator
from time import perf_counter
from typing import TextIO

from bench.load.answer import CONNECT, REFUSED, CompletionAnswer
from bench.load.connection import Pool
from bench.load.options import PaceOptions
from bench.load.prompts import Bodies
from bench.load.tally import Checks, Tally

# A client that cannot connect waits, or a dead server would turn the loop into a spin.
_BACK_OFF_S = 0.1
_TERMINAL_INTERVAL_S = 0.25
_PLAIN_INTERVAL_S = 5.0


class Sender:
    """Sends one request and counts its answer."""

    def __init__(
        self, pool: Pool, head: bytes, bodies: Bodies, checks: Checks, pace: PaceOptions
    ) -> None:
        self._pool = pool
        self._head = head + b"Content-Length: "
        self._bodies = bodies
        self._checks = checks
        self._timeout_s = pace.timeout_s

    async def send(self, index: int, tally: Tally, due: float | None = None) -> bool:
        """Send a request that was due then (now, if not given); return whether it could connect.

        Its times count from when it was due, so that neither a late sender nor a limit on requests
        in flight hides how long the answer took.
        """
        body = self._bodies.get(index)
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        answer = self._checks.new_answer(perf_counter() if due is None else due, tally.itl)
        tally.sent += 1
        try:
            connected = await self._exchange(request, answer, tally)
        except asyncio.CancelledError:
            tally.interrupt(answer)
            raise
        prompt = self._bodies.prompt(index) if self._checks.need_prompt else None
        self._checks.apply(answer, self._bodies.max_tokens(index), prompt)
        tally.add(answer)
        return connected

    async def _exchange(self, request: bytes, answer: CompletionAnswer, tally: Tally) -> bool:
        try:
            connection = await self._pool.take()
        except (OSError, TimeoutError) as error:
            kind = REFUSED if isinstance(error, ConnectionRefusedError) else CONNECT
            answer.fail(kind, str(error) or "timed out")
            return False
        tally.lag.add(perf_counter() - answer.started)
        try:
            await connection.exchange(request, answer, self._timeout_s)
        finally:
            self._pool.give(connection)
        return True


class Budget:
    """How much remains to be sent: a number of requests, a time, or both."""

    def __init__(self, requests: int | None, seconds: float | None) -> None:
        self.started = perf_counter()
        self._requests = requests
        self._seconds = seconds
        self._taken = 0

    def take(self, after_s: float | None = None) -> int | None:
        """Return the index of a request to send, at that time or now; None when it is over."""
        if self._requests is not None and self._taken >= self._requests:
            return None
        if self._seconds is not None:
            elapsed_s = perf_counter() - self.started if after_s is None else after_s
            if elapsed_s >= self._seconds:
                return None
        self._taken += 1
        return self._taken - 1

    def fraction(self) -> float:
        """Return the finished part of the run, between 0 and 1."""
        parts = [0.0]
        if self._requests:
            parts.append(self._taken / self._requests)
        if self._seconds:
            parts.append((perf_counter() - self.started) / self._seconds)
        return min(1.0, max(parts))


async def closed_loop(sender: Sender, clients: int, budget: Budget, tally: Tally) -> None:
    """Let that many clients send one request after the other."""

    async def client() -> None:
        while (index := budget.take()) is not None:
            if not await sender.send(index, tally):
                await asyncio.sleep(_BACK_OFF_S)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())


def arrival_times(rate: float, *, uniform: bool, seed: int) -> Iterator[float]:
    """Yield when requests arrive, in seconds from the start: a Poisson process, or even gaps."""
    gaps = random.Random(seed)
    time_s = 0.0
    while True:
        yield time_s
        time_s += 1 / rate if uniform else gaps.expovariate(rate)


async def open_loop(
    sender: Sender, pace: PaceOptions, times: Iterator[float], budget: Budget, tally: Tally
) -> None:
    """Send requests when they arrive, however many are unanswered, up to the limit if any."""
    gate = asyncio.Semaphore(pace.max_in_flight) if pace.max_in_flight else None

    async def arrive(index: int, due: float) -> None:
        try:
            await sender.send(index, tally, due)
        finally:
            if gate is not None:
                gate.release()

    async with asyncio.TaskGroup() as tasks:
        for time_s in times:
            index = budget.take(time_s)
            if index is None:
                break
            due = budget.started + time_s
            await asyncio.sleep(max(0.0, due - perf_counter()))
            if gate is not None:
                await gate.acquire()
            tasks.create_task(arrive(index, due))


class Progress:
    """Shows on stderr how far a run is: one line rewritten on a terminal, else a line at times."""

    def __init__(self, tally: Tally, budget: Budget, out: TextIO = sys.stderr) -> None:
        self._tally = tally
        self._budget = budget
        self._out = out
        self._before = (budget.started, 0)

    async def show(self) -> None:
        """Write a line at each interval, until cancelled."""
        terminal = self._out.isatty()
        start, end = ("\r", "\x1b[K") if terminal else ("", "\n")
        try:
            while True:
                await asyncio.sleep(_TERMINAL_INTERVAL_S if terminal else _PLAIN_INTERVAL_S)
                print(f"{start}{self._line()}", end=end, file=self._out, flush=True)
        finally:
            if terminal:
                print("\r\x1b[K", end="", file=self._out, flush=True)

    def _line(self) -> str:
        """Return the present line; its rate is that since the previous line."""
        now = perf_counter()
        tally = self._tally
        ended = tally.completed + tally.failed
        then, ended_then = self._before
        self._before = (now, ended)
        rate = (ended - ended_then) / (now - then) if now > then else 0.0
        fraction = self._budget.fraction()
        elapsed_s = now - self._budget.started
        eta = f"{elapsed_s / fraction - elapsed_s:.0f} s" if fraction > 0 else "?"
        return (
            f"{fraction:4.0%}  {ended} done  {rate:.1f}/s  {tally.in_flight} in flight  "
            f"{tally.failed} errors  eta {eta}"
        )
