"""vgate.client before real workers: connections are cut anywhere, and its streams are whole."""

import asyncio
import os
import random
import select
import signal
import socket
import struct
import threading
from typing import Any, Self

import openai
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.test_lost_connections import worker_of
from tests.frontend.test_taking_up import CASES
from vgate import __version__
from vgate.client import AsyncClient, Client

_RESET = struct.pack("ii", 1, 0)
APIS = {
    "/v1/chat/completions": ("chat", "completions"),
    "/v1/completions": ("completions",),
    "/v1/responses": ("responses",),
}


class CuttingProxy:
    """Passes bytes on, and cuts answers anywhere; a context manager.

    Attributes:
        cuts: How many connections it has cut.
        least, most: Bytes after which it does.
    """

    def __init__(self, port: int, seed: str) -> None:
        self._target = ("127.0.0.1", port)
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.cuts = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        left, reset = self._random.randrange(150, 6000), self._random.random() < 0.5
        # In one thread: a socket that another one waits for is not closed by `close`.
        with socket.create_connection(self._target) as server, client:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                end = ready[0]
                data = _received(end)
                if end is client:
                    if not data:
                        return
                    server.sendall(data)
                    continue
                client.sendall(data[:left])
                left -= len(data)
                if not data or left <= 0:
                    break
            self.cuts += left <= 0
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(65536)
    except OSError:
        return b""


def plain(value: Any) -> Any:
    """Return a chunk without what differs between two requests."""
    if isinstance(value, dict):
        left_out = {"id", "item_id", "call_id", "created", "created_at", "completed_at"}
        return {name: plain(each) for name, each in value.items() if name not in left_out}
    return [plain(each) for each in value] if isinstance(value, list) else value


def by_choice(chunks: list[Any]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for chunk in chunks:
        data = chunk.model_dump()
        choices = data.get("choices")
        found.setdefault(choices[0]["index"] if choices else None, []).append(plain(data))
    return found


def create(client: Any, case: str) -> Any:
    path, fields = CASES[case]
    for name in APIS[path]:
        client = getattr(client, name)
    return client.create(model="m", stream=True, **fields)


def read(url: str, case: str) -> list[Any]:
    with Client(url) as client, create(client, case) as stream:
        return list(stream)


async def read_async(url: str, case: str) -> list[Any]:
    async with AsyncClient(url) as client, await create(client, case) as stream:
        return [chunk async for chunk in stream]


@pytest.fixture(scope="module")
def server(run_dirs):
    with Instance(
        run_dirs, dry_run=True, server__workers=2, server__stream_keepalive_s=1, dry_run__step_ms=2
    ) as instance:
        yield instance


@pytest.mark.parametrize("case", ["chat", "tools", "choices", "completions", "responses"])
def test_cut_anywhere_a_stream_has_every_event_once(server: Instance, case: str):
    whole = by_choice(read(server.url, case))
    with CuttingProxy(server.port, case) as proxy:
        assert by_choice(read(proxy.url, case)) == whole
        cuts = proxy.cuts
        assert by_choice(asyncio.run(read_async(proxy.url, case))) == whole
        assert proxy.cuts > cuts > 0


def test_a_killed_worker_s_stream_goes_on_in_the_other(server: Instance):
    whole = by_choice(read(server.url, "chat"))
    with Client(server.url) as client, create(client, "chat") as stream:
        got = [next(stream) for _ in range(5)]
        connection = stream.response.extensions["network_stream"]
        os.kill(worker_of(server, connection.get_extra_info("client_addr")[1]), signal.SIGKILL)
        got += list(stream)
    assert by_choice(got) == whole
    wait_until(lambda: len(server.pids()) == 3 and server.ready(), 30, "a new worker")


def test_the_documented_example(server: Instance, capsys: pytest.CaptureFixture[str]):
    section = (ROOT / "docs/clients.md").read_text().partition("## V-Gate's own client")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8000", server.url), names)
    names["client"].close()
    assert capsys.readouterr().out.splitlines()[-2:] == ["Hello!bypass", __version__]


def test_readiness_stats_usage_and_the_cache_s_use(server: Instance):
    with Client(server.url) as client:
        client.ready(10)
        assert client.stats()["requests"]
        answer = client.with_cache("refresh").completions.create(model="m", prompt="x")
        assert client.cache_status(answer) == "bypass"
        rows = wait_until(lambda: client.usage(by="model"), 10, "a row of usage")
        assert rows[0]["requests"] > 0


@pytest.mark.parametrize("kind", [Client, openai.OpenAI])
def test_a_paused_engine_s_comments_are_no_events(server: Instance, kind: type[openai.OpenAI]):
    whole = by_choice(read(server.url, "chat"))
    engine, headers = server.pid_of("engine"), {"X-VGate-Resumable": "true"}
    made = kind(base_url=f"{server.url}/v1", api_key="x", default_headers=headers)
    with made as client, create(client, "chat") as stream:
        got = [next(stream) for _ in range(5)]
        os.kill(engine, signal.SIGSTOP)
        resumed = threading.Timer(2.5, os.kill, (engine, signal.SIGCONT))
        resumed.start()
        got += list(stream)
        resumed.join()
    assert by_choice(got) == whole
