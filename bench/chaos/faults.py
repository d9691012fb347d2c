"""What is done to the server. Each fault takes its time and leaves nothing behind."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec

from bench.chaos.instance import Instance

_RECOVERY_S = 120.0
_POLL_S = 0.02


class NotRecoveredError(Exception):
    """The server did not recover from a fault."""


class Fault(msgspec.Struct):
    """One that was inflicted. Times are monotonic, in seconds.

    Attributes:
        deaths: What died of it: "engine", "frontend" or "".
        ended: When it was over, and its victim or a successor served.
    """

    kind: str
    began: float
    ended: float = 0.0
    deaths: str = ""


class Victim(msgspec.Struct, frozen=True):
    """The server, and what chooses a process of it and the durations."""

    instance: Instance
    rng: random.Random

    async def process(self, role: str) -> int:
        """Return the pid of one of its processes, once there is one: it may have died by itself."""
        pids: list[int] = []

        async def there() -> bool:
            pids[:] = self.instance.pids(role)
            return bool(pids)

        await _until(there, f"a process of the {role}")
        # Not asked for again: it may die at any moment.
        return self.rng.choice(pids)


async def inflict(kind: str, victim: Victim, fault: Fault) -> None:
    """Inflict a fault, and wait until the server has recovered.

    Raises:
        NotRecoveredError: It has not.
    """
    await KINDS[kind](victim, fault)
    fault.ended = time.monotonic()


async def _kill(role: str, sig: signal.Signals, victim: Victim, fault: Fault) -> None:
    pid = await victim.process(role)
    before = len(victim.instance.pids(role))
    fault.deaths = role
    with suppress(ProcessLookupError):
        os.kill(pid, sig)

    async def replaced() -> bool:
        now = victim.instance.pids(role)
        return pid not in now and len(now) >= before

    await _until(replaced, f"another {role}")
    await _until(partial(_ready, victim.instance), "ready again")


async def _pause(role: str, victim: Victim, fault: Fault) -> None:
    del fault
    pid = await victim.process(role)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(victim.rng.uniform(0.1, 1.0))
        os.kill(pid, signal.SIGCONT)


async def _read_slowly(size: int, victim: Victim, fault: Fault) -> None:
    """Ask for a long stream, read `size` bytes at a time or nothing, and leave before its end."""
    del fault
    instance = victim.instance
    host, port = instance.target.addresses[0], instance.target.port
    message = {"role": "user", "content": "on and on"}
    ask = {"model": "", "messages": [message], "stream": True, "ignore_eos": True}
    body = msgspec.json.encode(ask)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    )
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        writer.write(f"{head}Authorization: Bearer {instance.key}\r\n\r\n".encode() + body)
        for _ in range(20):
            await asyncio.sleep(0.05)
            if size:
                await reader.read(size)
        writer.close()


async def _break_key_file(victim: Victim, fault: Fault) -> None:
    del fault
    path = victim.instance.key_file
    good = path.read_bytes()
    path.write_bytes(victim.rng.choice([b'{"name": ', b"\xff\x00", b"[]\n"]))
    await asyncio.sleep(1.5)
    path.write_bytes(good)


async def _leave_log(victim: Victim, fault: Fault) -> None:
    del fault
    victim.instance.log_is_read.clear()
    await asyncio.sleep(victim.rng.uniform(1.0, 3.0))
    victim.instance.log_is_read.set()


async def _ready(instance: Instance) -> bool:
    host, port = instance.target.addresses[0], instance.target.port
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in status


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _RECOVERY_S
    while not await condition():
        if time.monotonic() > deadline:
            raise NotRecoveredError(f"not within {_RECOVERY_S:.0f} s: {what}")
        await asyncio.sleep(_POLL_S)


KINDS: dict[str, Callable[[Victim, Fault], Awaitable[None]]] = {
    "engine_kill": partial(_kill, "engine", signal.SIGKILL),
    "engine_term": partial(_kill, "engine", signal.SIGTERM),
    "engine_hang": partial(_kill, "engine", signal.SIGSTOP),
    "engine_pause": partial(_pause, "engine"),
    "frontend_kill": partial(_kill, "frontend", signal.SIGKILL),
    "frontend_pause": partial(_pause, "frontend"),
    "slow_reader": partial(_read_slowly, 256),
    "absent_reader": partial(_read_slowly, 0),
    "broken_key_file": _break_key_file,
    "unread_log": _leave_log,
}
