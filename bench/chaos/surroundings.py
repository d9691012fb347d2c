"""Faults of what the server stands on: its disk, its clock, its key file, its log."""

import asyncio
from contextlib import suppress

from bench.chaos.preparation import CLOCK_S
from bench.chaos.victim import Fault, NotRecoveredError, Victim

# By how many seconds the clock jumps.
_JUMPS_S = (-86_400, -61, -5, 5, 61, 86_400)


async def fill_disk(victim: Victim, fault: Fault) -> None:
    """Fill the disk of the run and state directories to the last byte for a while."""
    del fault
    filler = victim.instance.disk / "filler"
    try:
        with filler.open("ab", buffering=0) as file:
            for size in (65_536, 1024, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        await asyncio.sleep(victim.rng.uniform(1.0, 3.0))
        await victim.until(victim.ready, "ready with a full disk")
    finally:
        filler.unlink()
    await victim.until(victim.ready_without_warnings, "no warnings after a full disk")


async def jump(victim: Victim, fault: Fault) -> None:
    """Let the wall clock jump, and jump back; nothing may die of that."""
    instance = victim.instance
    try:
        instance.clock.write_text(f"{victim.rng.choice(_JUMPS_S):+d}")
        await asyncio.sleep(CLOCK_S + victim.rng.uniform(1.0, 3.0))
    finally:
        instance.clock.write_text("+0")
    await asyncio.sleep(2 * CLOCK_S)
    await victim.until(victim.ready, "ready after a jump of the clock")
    died = [
        line
        for at, line in instance.log.copy()
        if at >= fault.began and "process died" in line and "injected" not in line
    ]
    if died:
        raise NotRecoveredError(f"when the clock jumped: {died[0]}")


async def break_key_file(victim: Victim, fault: Fault) -> None:
    """Leave the key file broken for a moment, as one that is being written."""
    del fault
    path = victim.instance.key_file
    good = path.read_bytes()
    path.write_bytes(victim.rng.choice([b'{"name": ', b"\xff\x00", b"[]\n"]))
    await asyncio.sleep(1.5)
    path.write_bytes(good)


async def leave_log(victim: Victim, fault: Fault) -> None:
    """Read nothing of the log for a while."""
    del fault
    victim.instance.log_is_read.clear()
    await asyncio.sleep(victim.rng.uniform(1.0, 3.0))
    victim.instance.log_is_read.set()
