"""What is done to the server. Each fault takes its time and leaves nothing behind."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from bench.chaos.preparation import no_clock_because, no_disk_because
from bench.chaos.readers import lose_requests, lose_stream, read_slowly
from bench.chaos.surroundings import break_key_file, fill_disk, jump, leave_log
from bench.chaos.victim import Fault, Victim

_STARVED_S = 2.0


async def inflict(kind: str, victim: Victim, fault: Fault) -> None:
    """Inflict a fault, and wait until the server has recovered.

    Raises:
        NotRecoveredError: It has not.
    """
    await KINDS[kind](victim, fault)
    fault.ended = time.monotonic()


def left_out_because(kind: str) -> str | None:
    """Return why a fault can't be inflicted on this machine; None if it can."""
    check = _NEEDS.get(kind)
    return check() if check else None


async def _kill(role: str, sig: signal.Signals, victim: Victim, fault: Fault) -> None:
    pid = await victim.process(role)
    before = len(victim.instance.pids(role))
    fault.deaths = role
    with suppress(ProcessLookupError):
        os.kill(pid, sig)
    await _replaced(pid, role, before, victim)


async def _replaced(pid: int, role: str, before: int, victim: Victim) -> None:
    async def replaced() -> bool:
        now = victim.instance.pids(role)
        return pid not in now and len(now) >= before

    await victim.until(replaced, f"another {role}")
    await victim.until(victim.ready, "ready again")


async def _pause(role: str, victim: Victim, fault: Fault) -> None:
    del fault
    pid = await victim.process(role)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(victim.rng.uniform(0.1, 1.0))
        finally:
            os.kill(pid, signal.SIGCONT)


async def _starve(victim: Victim, fault: Fault) -> None:
    """Give an engine no more memory for a while; it dies if it needs some."""
    pid = await victim.process("engine")
    before = len(victim.instance.pids("engine"))
    # It may die of this long after the limit is lifted, with what it could not allocate.
    fault.deaths = "engine"
    with suppress(ProcessLookupError):
        limits = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (0, limits[1]))
        await asyncio.sleep(_STARVED_S)
        resource.prlimit(pid, resource.RLIMIT_AS, limits)
        await asyncio.sleep(1)
        if pid in victim.instance.pids("engine"):
            fault.deaths = ""
            return
    await _replaced(pid, "engine", before, victim)


KINDS: dict[str, Callable[[Victim, Fault], Awaitable[None]]] = {
    "engine_kill": partial(_kill, "engine", signal.SIGKILL),
    "engine_term": partial(_kill, "engine", signal.SIGTERM),
    "engine_hang": partial(_kill, "engine", signal.SIGSTOP),
    "engine_pause": partial(_pause, "engine"),
    "engine_memory": _starve,
    "frontend_kill": partial(_kill, "frontend", signal.SIGKILL),
    "frontend_pause": partial(_pause, "frontend"),
    "slow_reader": partial(read_slowly, 256),
    "absent_reader": partial(read_slowly, 0),
    "lost_stream": lose_stream,
    "lost_requests": lose_requests,
    "broken_key_file": break_key_file,
    "unread_log": leave_log,
    "full_disk": fill_disk,
    "clock_jump": jump,
}
_NEEDS = {"full_disk": no_disk_because, "clock_jump": no_clock_because}
