"""What the noisy key does: bodies over and over, connections by the thousand, and slow clients."""

import asyncio
import itertools
import os
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import parent_process
from multiprocessing.synchronize import Event
from socket import SO_LINGER, SO_RCVBUF, SOL_SOCKET, socket
from time import perf_counter

import msgspec

from bench.load.answer import TIMEOUT, Answer
from bench.load.connection import Connection, allow_files
from bench.neighbour.bodies import BODIES, CHAT, chat, compressed, words
from bench.neighbour.fields import REQUESTS, filled

KEY = "noisy-key"
HOST = "127.0.0.1"
_CONNECTIONS = 2
_TIMEOUT_S = 120.0
_MANY = 3000
_SLOW = 300
_READERS = 64
_LEAVERS = 20
_TOLD = 503
_FIRST_ERROR = 500


class Attack:
    """What an attack needs: a port, and when it is to run, which another process says."""

    def __init__(self, port: int, go: Event, stop: Event) -> None:
        self.port = port
        self.go = go
        self.stop = stop

    async def end(self) -> None:
        """Wait until the attack is off."""
        while self.go.is_set() and not self._ended():  # noqa: ASYNC110 - set by a process
            await asyncio.sleep(0.05)

    def _ended(self) -> bool:
        parent = parent_process()
        return self.stop.is_set() or parent is None or not parent.is_alive()

    async def may_run(self) -> bool:
        """Wait until the attack is on; return False at its end."""
        while not self.go.is_set():
            if self._ended():
                return False
            await asyncio.sleep(0.005)
        return not self._ended()


Run = Callable[[Attack], Awaitable[object]]
# Makes what is sent, before anything is measured.
Prepare = Callable[[], Run]


def request(path: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of a request of the noisy key."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _send(requests: Sequence[bytes], attack: Attack) -> None:
    """Send requests on a few connections, each when the one before is answered."""
    turns = itertools.cycle(requests)

    async def client() -> None:
        connection = None
        while await attack.may_run():
            if connection is None or not connection.usable:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(Connection, HOST, attack.port)
            answer = Answer(perf_counter())
            await connection.exchange(next(turns), answer, _TIMEOUT_S)
            if answer.error == TIMEOUT or answer.status >= _FIRST_ERROR != _TOLD:
                assert answer.status == _TOLD, (answer.error, answer.detail)

    await asyncio.gather(*(client() for _ in range(_CONNECTIONS)))


def _bodies(name: str) -> Run:
    return partial(_send, [request(*BODIES[name]())])


def _compressed() -> Run:
    return partial(_send, [request(CHAT, compressed(), "Content-Encoding: gzip")])


def _fields() -> Run:
    requests = [
        request(path, msgspec.json.encode(document))
        for (path, _), kind in REQUESTS.items()
        for _, document in filled(kind)
    ]
    return partial(_send, requests)


def _long_prompts() -> Run:
    """Return prompts that fit into the context, and no two of which begin alike."""
    text = words(60_000)
    prompts = [chat(f"{n} {text}", max_tokens=1) for n in range(200)]
    return partial(_send, [request(*prompt) for prompt in prompts])


def _short_of_text() -> Run:
    """Return the most that is still read and tokenised on the loop."""
    text = words(16_000)
    prompts = [chat(f"{n} {text}", max_tokens=1) for n in range(1000)]
    return partial(_send, [request(*prompt) for prompt in prompts])


async def _many(count: int, attack: Attack, one: Callable[[], Awaitable[None]]) -> None:
    """Run `one` over and over, so many at a time."""
    allow_files(count)

    async def client() -> None:
        while await attack.may_run():
            with suppress(OSError, asyncio.IncompleteReadError):
                await one()

    await asyncio.gather(*(client() for _ in range(count)))


async def _connect(attack: Attack) -> None:
    """Open thousands of connections that send half a head, and open those anew that end."""

    async def one() -> None:
        _, writer = await asyncio.open_connection(HOST, attack.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost:".encode())
        await attack.end()
        writer.transport.abort()

    await _many(_MANY, attack, one)


async def _drip(attack: Attack) -> None:
    """Send bodies of which a byte comes now and then."""
    whole = request(*chat("a" * 100_000))

    async def one() -> None:
        _, writer = await asyncio.open_connection(HOST, attack.port)
        writer.write(whole[:400])
        for byte in whole[400:]:
            if not attack.go.is_set() or writer.is_closing():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        writer.transport.abort()

    await _many(_SLOW, attack, one)


async def _absent(attack: Attack) -> None:
    """Ask for long streams with log probabilities and read nothing of them."""
    fields = {"stream": True, "ignore_eos": True, "max_tokens": 20_000}
    whole = request(*chat("a b c", logprobs=True, top_logprobs=20, **fields))

    async def one() -> None:
        with socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
            connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (HOST, attack.port))
            await loop.sock_sendall(connection, whole)
            await attack.end()

    await _many(_READERS, attack, one)


def _whole_logprobs() -> Run:
    """Return chats whose answers are long, with log probabilities, and come as a whole."""
    fields = {"logprobs": True, "top_logprobs": 20, "ignore_eos": True, "max_tokens": 2_000}
    return partial(_send, [request(*chat("a b c", **fields))])


async def _leave(whole: bytes, after_s: float, pause_s: float, attack: Attack) -> None:
    """Send a request, leave without its answer, and pause."""

    async def one() -> None:
        _, writer = await asyncio.open_connection(HOST, attack.port)
        writer.write(whole)
        await writer.drain()
        await asyncio.sleep(after_s)
        writer.transport.abort()
        await asyncio.sleep(pause_s)

    await _many(_LEAVERS, attack, one)


ATTACKS: dict[str, Prepare] = {
    **{name: partial(_bodies, name) for name in BODIES},
    "every field": _fields,
    "compressed": _compressed,
    "long prompts": _long_prompts,
    "prompts on the loop": _short_of_text,
    "connections": lambda: _connect,
    "slow senders": lambda: _drip,
    "absent readers": lambda: _absent,
    "whole log probabilities": _whole_logprobs,
    "left at once": lambda: partial(_leave, request(*chat("hi", max_tokens=1000)), 0.002, 0.03),
    "left with 4 MB": lambda: partial(_leave, request(*chat(words(4_000_000))), 0.0, 1.0),
}


def run(name: str, port: int, ready: Event, go: Event, stop: Event) -> None:
    """Run an attack: the main function of its process."""
    # On a machine of its own, a client would take nothing from the server's.
    os.nice(10)
    attack = ATTACKS[name]()
    ready.set()
    asyncio.run(_run(attack, Attack(port, go, stop)))


async def _run(attack: Run, on: Attack) -> None:
    await attack(on)
