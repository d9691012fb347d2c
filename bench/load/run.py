"""A run from its options to its summary."""

import asyncio
import contextlib
import gc
import os
import platform
import signal
from collections.abc import Coroutine
from datetime import UTC, datetime
from time import perf_counter, process_time
from typing import Any

import msgspec

from bench.load.connection import Pool, allow_files
from bench.load.drive import Budget, Progress, Sender, arrival_times, closed_loop, open_loop
from bench.load.options import PATHS, Options, UsageError
from bench.load.processes import Watch
from bench.load.prompts import Bodies, Prompts
from bench.load.summary import Latency, Summary, own_cost
from bench.load.tally import Checks, Tally
from bench.load.target import request_head, resolve

_MODELS_TIMEOUT_S = 30.0
# The number of open files to allow without a limit on requests in flight.
_OPEN_LOOP_FILES = 10_000


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def run(options: Options, headers: list[tuple[str, str]]) -> Summary:
    """Carry out a run.

    Raises:
        UsageError: The target cannot be loaded as requested; nothing was measured.
    """
    pace = options.pace
    Watch(options.watch)  # rejects a wrong process id early; the one that counts comes later
    target = resolve(options.url, allow_remote=options.allow_remote)
    allow_files(pace.clients if pace.rate is None else pace.max_in_flight or _OPEN_LOOP_FILES)
    prompts = Prompts(options.prompt)
    kind = "text/event-stream" if options.body.stream else "application/json"
    fixed = [("Content-Type", "application/json"), ("Accept", kind)]
    if not pace.keepalive:
        fixed.append(("Connection", "close"))
    head = request_head("POST", target, PATHS[options.body.endpoint], fixed + headers)
    pool = Pool(target, keepalive=pace.keepalive)
    try:
        await pool.find_address()
        model = options.model or await _first_model(pool, headers)
        bodies = Bodies(model, options.body, prompts)
        sender = Sender(pool, head, bodies, Checks(options), pace)
        return await _measure(options, model, sender, pool)
    finally:
        pool.close()


async def _first_model(pool: Pool, headers: list[tuple[str, str]]) -> str:
    answer = await pool.get("/v1/models", headers, _MODELS_TIMEOUT_S)
    if answer.error is not None:
        raise UsageError(f"GET /v1/models: {answer.error}: {answer.detail} (or give --model)")
    try:
        models = msgspec.json.decode(answer.body, type=_Models).data
    except msgspec.DecodeError as error:
        raise UsageError(f"GET /v1/models: {error} (or give --model)") from None
    if not models:
        raise UsageError("the server lists no model; give --model")
    return models[0].id


async def _measure(options: Options, model: str, sender: Sender, pool: Pool) -> Summary:
    stop = _stop_event()
    interrupted = await _until_stopped(_warm_up(options, sender, pool), stop)
    watch = Watch(options.watch)
    gc.collect()
    gc.freeze()  # objects of the whole run need not be scanned repeatedly
    tally = Tally()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    cpu_s = process_time()
    budget = Budget(options.pace.requests, options.pace.seconds)
    if not interrupted:
        interrupted = await _load(options, sender, budget, tally, stop)
    seconds = perf_counter() - budget.started
    cpu_s = process_time() - cpu_s
    loop_name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    total_tokens = tally.prompt_tokens + tally.output_tokens
    return Summary(
        started_at=started_at,
        model=model,
        settings=options,
        host=_host(),
        interrupted=interrupted,
        seconds=round(seconds, 4),
        sent=tally.sent,
        completed=tally.completed,
        failed=tally.failed,
        given_up=tally.interrupted,
        requests_per_s=round(tally.completed / seconds, 3),
        output_tokens_per_s=round(tally.output_tokens / seconds, 2),
        delivered_tokens_per_s=round(tally.delivered_tokens / seconds, 2),
        total_tokens_per_s=round(total_tokens / seconds, 2),
        prompt_tokens=tally.prompt_tokens,
        output_tokens=tally.output_tokens,
        chunks=tally.chunks,
        without_usage=tally.without_usage,
        latency_ms=Latency(
            ttft=tally.ttft.spread(),
            tpot=tally.tpot.spread(),
            itl=tally.itl.spread(),
            e2e=tally.e2e.spread(),
            send_lag=tally.lag.spread(),
        ),
        statuses=tally.statuses,
        errors=tally.errors,
        own=own_cost(cpu_s, seconds, tally.chunks, loop_name),
        processes=watch.costs(tally.completed, tally.delivered_tokens),
    )


def _host() -> dict[str, str | int]:
    return {
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


async def _load(
    options: Options, sender: Sender, budget: Budget, tally: Tally, stop: asyncio.Event
) -> bool:
    """Send the measured requests and show the progress; return whether it was stopped."""
    pace = options.pace
    if pace.rate is None:
        load = closed_loop(sender, pace.clients, budget, tally)
    else:
        times = arrival_times(pace.rate, uniform=pace.uniform, seed=options.prompt.seed)
        load = open_loop(sender, pace, times, budget, tally)
    if not options.progress:
        return await _until_stopped(load, stop)
    progress = asyncio.create_task(Progress(tally, budget).show())
    try:
        return await _until_stopped(load, stop)
    finally:
        progress.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await progress


async def _warm_up(options: Options, sender: Sender, pool: Pool) -> None:
    """Open the connections and send requests that are not counted, whose prompts are not reused."""
    pace = options.pace
    expected = pace.max_in_flight or 1 if pace.rate is not None else pace.clients
    await pool.prepare(min(expected, pace.requests or expected))
    indexes = iter(range(-pace.warmup, 0))
    ignored = Tally()

    async def client() -> None:
        for index in indexes:
            await sender.send(index, ignored)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(expected, pace.warmup)):
            tasks.create_task(client())


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Await the work, or cancel it when a stop is requested; return whether it was."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
        return True
    await working
    return False
