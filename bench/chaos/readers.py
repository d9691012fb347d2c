"""Clients that do not read their answers, and clients that vanish without a word."""

import asyncio
import ctypes
import socket
import struct
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from bench.chaos.instance import Instance
from bench.chaos.victim import Fault, Victim

SO_ATTACH_FILTER = 26  # socket(7), asm-generic/socket.h
# A classic BPF program of one instruction: let nothing through (BPF_RET, 0 bytes).
_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
FILTER = struct.pack("HL", 1, ctypes.addressof(_NOTHING))
_ESTABLISHED = "01"


async def read_slowly(size: int, victim: Victim, fault: Fault) -> None:
    """Ask for a long stream, read `size` bytes at a time or nothing, and leave before its end."""
    del fault
    instance = victim.instance
    host, port = instance.target.addresses[0], instance.target.port
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        writer.write(_long_stream(instance))
        for _ in range(20):
            await asyncio.sleep(0.05)
            if size:
                await reader.read(size)
        writer.close()


async def lose_stream(victim: Victim, fault: Fault) -> None:
    """Lose the link to a client in the middle of its stream.

    From then on nothing passes in either direction, and neither side is told, as when a cable is
    cut. The server must find out by itself.
    """
    del fault
    await _lose(victim, "in a stream", _long_stream(victim.instance), answered=True)


async def lose_requests(victim: Victim, fault: Fault) -> None:
    """Lose the links to clients, in the middle of a request's body and between two requests."""
    del fault
    head, _, _ = _long_stream(victim.instance).partition(b"{")
    idle = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await asyncio.gather(
        _lose(victim, "in a body", head, answered=False),
        _lose(victim, "between requests", idle, answered=True),
    )


async def _lose(victim: Victim, when: str, request: bytes, *, answered: bool) -> None:
    instance = victim.instance
    loop = asyncio.get_running_loop()
    with closing(socket.socket()) as client:
        client.setblocking(False)
        try:
            await loop.sock_connect(client, (instance.target.addresses[0], instance.target.port))
            await loop.sock_sendall(client, request)
            if answered:
                await loop.sock_recv(client, 65_536)
        except OSError:
            return
        client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, FILTER)
        remote = client.getsockname()[1]

        async def noticed() -> bool:
            return not is_open(instance.target.port, remote)

        await victim.until(noticed, f"the loss of a link {when} was noticed")


def _long_stream(instance: Instance) -> bytes:
    message = {"role": "user", "content": "on and on"}
    ask = {"model": "", "messages": [message], "stream": True, "ignore_eos": True}
    body = msgspec.json.encode(ask)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    )
    return f"{head}Authorization: Bearer {instance.key}\r\n\r\n".encode() + body


def is_open(local: int, remote: int) -> bool:
    """Whether the side of a connection that has the port `local` is open (proc_net_tcp(5))."""
    ends = f":{local:04X}", f":{remote:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, *_ = line.split()
        if here.endswith(ends[0]) and there.endswith(ends[1]) and state == _ESTABLISHED:
            return True
    return False
