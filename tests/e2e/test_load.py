"""Many clients at once, and many disconnects: nothing is lost, mixed up or left behind."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, EngineProbe, chat, endless, post

STREAMS = 1000
DISCONNECTS = 500
# Clients that connect at the same time; all their streams are open together afterwards.
CONNECTING = 100


@pytest.fixture(scope="module")
def big(run_dirs: Path) -> Iterator[Instance]:
    """Two workers in front of an engine that holds a thousand requests."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=2,
        batch__max_num_seqs=256,
        batch__max_queue_size=2000,
        dry_run__step_ms=2,
        dry_run__kv_cache_tokens=1_000_000,
        dry_run__prefill_tokens_per_s=1_000_000,
    ) as server:
        yield server


def async_client(server: Instance) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, limits=limits, timeout=100)


async def read_stream(port: int, body: bytes, gate: asyncio.Semaphore) -> list[str]:
    """Return the events of a stream, read as cheaply as possible."""
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        writer.write(post(body))
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK"), head
    assert b"transfer-encoding: chunked" in head
    text = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        text += (await reader.readexactly(size + 2))[:-2]
    writer.close()
    return text.decode().removesuffix("\n\n").split("\n\n")


async def stream_one(port: int, gate: asyncio.Semaphore, number: int) -> None:
    """Read one stream to its end and compare all of it."""
    text = f"client {number:04} says: " + f"{number:04}·" * (5 + number % 7) + "end"
    body = chat(text, stream=True, stream_options={"include_usage": True})
    events = await read_stream(port, json.dumps(body).encode(), gate)
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    usage = chunks.pop()["usage"]
    size = len(text.encode())
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (size + 3, size + 1)
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == text
    assert [c["choices"][0]["finish_reason"] for c in chunks][-2:] == [None, "stop"]
    assert len({c["id"] for c in chunks}) == 1


def test_a_thousand_streams(big: Instance):
    async def run() -> None:
        gate = asyncio.Semaphore(CONNECTING)
        async with asyncio.TaskGroup() as tasks:
            for number in range(STREAMS):
                tasks.create_task(stream_one(big.port, gate, number))

    started = time.monotonic()
    asyncio.run(run())
    print(f"\n{STREAMS} streams took {time.monotonic() - started:.1f} s")
    # A request is logged after its last event was sent.
    logged = "status=200 streamed=True"
    wait_until(lambda: big.logs().count(logged) >= STREAMS, 10, "all streams are logged")
    assert big.logs().count(logged) == STREAMS
    with EngineProbe(big.run_dir) as engine:
        engine.wait_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_of_a_disconnected_client_is_stopped_soon(big: Instance, stream: bool):
    body = json.dumps(endless(stream=stream)).encode()
    with EngineProbe(big.run_dir) as engine:
        with socket.create_connection(("127.0.0.1", big.port)) as connection:
            connection.sendall(post(body))
            wait_until(lambda: engine.status().running == 1, 10, "it runs")
        left_at = time.monotonic()
        engine.wait_idle()
        print(f"\nidle {time.monotonic() - left_at:.3f} s after its leaving")


async def leave(client: httpx.AsyncClient, choices: random.Random) -> None:
    """Send a request and disconnect at a random time before its end."""
    stream = choices.random() < 0.5
    size = choices.choice([10, 100, 1000, 30_000])
    body = endless("x" * size, stream=stream) if size < 2000 else chat("x" * size, stream=stream)
    try:
        async with asyncio.timeout(choices.choice([0.001, 0.01, 0.1, 0.5]) * choices.random()):
            async with client.stream("POST", CHAT, json=body) as response:
                async for _ in response.aiter_bytes():
                    if choices.random() < 0.05:
                        return
    except TimeoutError:
        return


def test_random_disconnects_leave_nothing_behind(big: Instance):
    async def run() -> None:
        choices = random.Random(20)
        for _ in range(DISCONNECTS // 50):
            # A connection pool that cancelled requests have left behind is of no more use.
            async with async_client(big) as client:
                await asyncio.gather(*(leave(client, choices) for _ in range(50)))

    asyncio.run(run())
    left_at = time.monotonic()
    with EngineProbe(big.run_dir) as engine:
        engine.wait_idle()
    print(f"\nidle {time.monotonic() - left_at:.2f} s after {DISCONNECTS} disconnects")
    assert httpx.post(big.url + CHAT, json=chat("hi")).status_code == 200


def test_afterwards_the_frontends_have_nothing_in_flight_and_nothing_was_logged(big: Instance):
    """A frontend with a request in flight would delay the stop."""
    started = time.monotonic()
    assert big.stop() == 0
    assert time.monotonic() - started < 15
    assert big.logs().count("draining in_flight=0") == 2
    assert big.has_problem() is None
