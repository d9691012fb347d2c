"""Reloading under load: no connection is refused or reset, no stream is cut, limits stay exact."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.traffic import CHAT, Request, chat, endless

pytestmark = pytest.mark.slow

_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
_RELOAD_S = 60


class Configured(Instance):
    """An instance with a configuration file that tests change."""

    def __init__(self, run_dirs: Path, file: Path, **settings: Any) -> None:
        super().__init__(run_dirs, dry_run=True, server__workers=2, **settings)
        self.file = file
        self.write({})

    def write(self, document: dict[str, Any]) -> None:
        """Replace the file."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(document))
        draft.replace(self.file)

    def launch(self) -> "Configured":
        """Start it with the file."""
        self._settings["config_path"] = str(self.file)
        super().launch()
        return self

    def reloading(self) -> list[str]:
        """Return the command line of ``vgate reload``."""
        command = [sys.executable, "-m", "vgate.launcher", "reload"]
        return [*command, "--run-dir", str(self.run_dir)]

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Run ``vgate reload``."""
        command = self.reloading()
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=_RELOAD_S, check=False
        )

    def frontends(self) -> set[int]:
        """Return the pids of all frontends."""
        return {pid for role, pid in self.pids().items() if role.startswith("frontend")}

    def hang_up(self) -> None:
        """Send SIGHUP and wait until others serve."""
        assert self.process is not None
        before, lines = self.frontends(), self.logs().count("new frontends serve")
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: self.logs().count("new frontends serve") > lines, _RELOAD_S, "they are replaced"
        )
        assert len(self.frontends() - before) == 2


@contextlib.contextmanager
def configured(run_dirs: Path, tmp_path: Path, **settings: Any) -> Iterator[Configured]:
    with Configured(run_dirs, tmp_path / "config.json", **settings) as server:
        yield server


class Load:
    """Clients that ask all the time, and what they saw.

    Attributes:
        seen: How often each outcome was seen; "ok" in front of those that are right.
    """

    def __init__(self, server: Instance) -> None:
        self._server = server
        self._over = False
        self.seen: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run clients of each kind: a connection for each request, one for all, streams."""
        async with httpx.AsyncClient(base_url=self._server.url, timeout=60) as client:
            tasks = [
                *(asyncio.create_task(self._ask("ok short", keep=False)) for _ in range(8)),
                *(asyncio.create_task(self._ask("ok kept", keep=True)) for _ in range(8)),
                *(asyncio.create_task(self._stream(client)) for _ in range(2)),
            ]
            try:
                yield
            finally:
                self._over = True
                await asyncio.gather(*tasks)

    def wrong(self) -> dict[str, int]:
        """Return the outcomes that no client may see."""
        return {what: count for what, count in self.seen.items() if not what.startswith("ok")}

    async def _ask(self, right: str, *, keep: bool) -> None:
        reader = writer = None
        while not self._over:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
                assert reader is not None
                writer.write(_HEALTH % (b"" if keep else b"Connection: close\r\n"))
                head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                (length,) = [line for line in head if line.startswith(b"content-length:")]
                await reader.readexactly(int(length.split(b":")[1]))
                self.seen[right if b" 200 " in head[0] else str(head[0])] += 1
                if b"connection: close" in head or not keep:
                    writer.close()
                    reader = writer = None
            except (OSError, asyncio.IncompleteReadError) as error:
                self.seen[f"{right[3:]}: {type(error).__name__}"] += 1
                if writer is not None:
                    writer.close()
                reader = writer = None
            await asyncio.sleep(0.002)
        if writer is not None:
            writer.close()
            await writer.wait_closed()

    async def _stream(self, client: httpx.AsyncClient) -> None:
        body = endless("on and on ", stream=True, max_tokens=300)
        while not self._over:
            text, line = "", ""
            try:
                async with client.stream("POST", CHAT, json=body) as response:
                    async for line in filled(response):
                        if line.startswith("data: {"):
                            for choice in json.loads(line[6:]).get("choices", ()):
                                text += choice["delta"].get("content") or ""
            except httpx.TransportError as error:
                self.seen[f"stream: {type(error).__name__}"] += 1
                continue
            whole = line == "data: [DONE]" and len(text) == 300
            self.seen["ok stream" if whole else f"stream: {len(text)} {line}"] += 1


async def filled(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of a stream that are not empty."""
    async for line in response.aiter_lines():
        if line:
            yield line


async def reloaded(server: Configured) -> str:
    """Run ``vgate reload`` beside the clients; return what it said."""
    done = await asyncio.to_thread(server.reload)
    assert done.returncode == 0, (done.stderr, server.logs())
    return done.stderr


def requests_counted(server: Instance) -> float:
    """Return how many requests /metrics counts for /health."""
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("vgate_requests_total{")]
    return sum(float(line.split()[-1]) for line in lines if 'endpoint="/health"' in line)


def test_no_client_notices_reloads(run_dirs: Path, tmp_path: Path) -> None:
    async def play(server: Configured) -> Load:
        load, counted = Load(server), 0.0
        async with load.running():
            for number in range(5):
                server.write({"server": {"max_choices": 10 + number}, "model": {"model_id": "x"}})
                said = await reloaded(server)
                assert "changed: server.max_choices" in said
                assert "needs a restart: model.model_id" in said
                before, counted = counted, await asyncio.to_thread(requests_counted, server)
                assert counted >= before, "/metrics went back"
        return load

    with configured(run_dirs, tmp_path, dry_run__step_ms=5) as server:
        load = asyncio.run(play(server))
        print(dict(load.seen))
        assert load.wrong() == {}
        assert min(load.seen[f"ok {kind}"] for kind in ("short", "kept", "stream")) > 4
        refused = httpx.post(f"{server.url}{CHAT}", json=chat("hi", n=15), timeout=10)
        assert refused.status_code == 400, "the new setting is not in force"
        assert httpx.post(f"{server.url}{CHAT}", json=chat("hi", n=14), timeout=10).is_success
        # Those that were replaced end with their last connection.
        wait_until(lambda: len(server.frontends()) == 2, 60, "the earlier ones end")
        # Counts are written at the end of a turn, so the last ones may be a moment late.
        total = load.seen["ok short"] + load.seen["ok kept"]
        wait_until(lambda: requests_counted(server) == total, 10, "/metrics has each request")
        assert server.has_problem() is None
        assert server.stop() == 0
        assert not server.run_dir.exists()


def test_a_stream_and_an_idle_connection_outlive_their_frontend(
    run_dirs: Path, tmp_path: Path
) -> None:
    with configured(run_dirs, tmp_path, dry_run__step_ms=20) as server:
        streams = [
            Request(server.url, endless(stream=True, max_tokens=400)).wait_for_text()
            for _ in range(4)
        ]
        earlier = server.frontends()
        keep = httpx.Limits(keepalive_expiry=None)
        with httpx.Client(base_url=server.url, limits=keep) as client:
            client.get("/health")
            server.hang_up()
            server.hang_up()
            assert server.frontends() & earlier
            answer = client.get("/health")
            assert answer.headers["connection"] == "close"
            assert client.get("/health").headers.get("connection") is None
        assert all(stream.wait().done and len(stream.text) == 400 for stream in streams)
        wait_until(lambda: not server.frontends() & earlier, 60, "they end with their streams")


def test_limits_are_exact_across_reloads(run_dirs: Path, tmp_path: Path) -> None:
    limit = 800
    security = {
        "security__enabled": True,
        "security__api_keys": [{"key": "sk-me", "name": "me"}],
        "security__rate_limiting__default_limit": limit,
        "security__rate_limiting__window_seconds": 600,
    }

    async def ask(client: httpx.AsyncClient, statuses: Counter[int]) -> None:
        while not statuses[429]:
            statuses[(await client.post(CHAT, json=chat("hi"))).status_code] += 1

    async def play(server: Configured) -> Counter[int]:
        statuses: Counter[int] = Counter()
        headers = {"authorization": "Bearer sk-me"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            tasks = [asyncio.create_task(ask(client, statuses)) for _ in range(8)]
            await reloaded(server)
            assert not statuses[429], "the reload came too late"
            for _ in range(2):
                await reloaded(server)
            await asyncio.gather(*tasks)
        return statuses

    with configured(run_dirs, tmp_path, dry_run__step_ms=20, **security) as server:
        statuses = asyncio.run(play(server))
        assert set(statuses) == {200, 429}
        assert statuses[200] == limit


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "is not valid YAML"),
        ('{"server": {"max_choices": 0}}', "`server.max_choices` must be"),
        ('{"model": {"chat_template": "/no/where"}, "cache": {"ttl_s": 5}}', "/no/where"),
    ],
)
def test_a_broken_configuration_changes_nothing(
    run_dirs: Path, tmp_path: Path, document: str, reason: str
) -> None:
    with configured(run_dirs, tmp_path) as server:
        before = server.frontends()
        config = httpx.get(f"{server.url}/stats", timeout=10).json()["config"]
        server.file.write_text(document)
        done = server.reload()
        assert done.returncode == 1
        assert done.stderr.startswith("vgate: nothing is changed: ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        wait_until(lambda: server.frontends() == before, 60, "only the earlier ones are left")
        assert server.ready()
        assert httpx.get(f"{server.url}/stats", timeout=10).json()["config"] == config
        os.kill(server.pid_of("frontend-1"), signal.SIGKILL)
        wait_until(lambda: len(server.frontends() - before) == 1, 30, "its successor starts")
        wait_until(server.ready, 30, "it serves with the earlier settings")
        assert httpx.get(f"{server.url}/stats", timeout=10).json()["config"] == config


def test_deaths_during_a_hand_over(run_dirs: Path, tmp_path: Path) -> None:
    with configured(run_dirs, tmp_path) as server:
        for role, outcome in (("frontend-3", 1), ("frontend-1", 0), ("engine", 0)):
            before = server.pids()
            reloading = psutil.Popen(
                server.reloading(), cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            arrived = wait_until(lambda b=before: server.pids().keys() - b.keys(), 30, "one starts")
            victim = arrived.pop() if role == "frontend-3" else role
            if victim not in server.pids():
                victim = min(before.keys() - {"engine"})
            os.kill(server.pid_of(victim), signal.SIGKILL)
            _, said = reloading.communicate(timeout=_RELOAD_S)
            assert reloading.returncode == outcome, said
            wait_until(lambda: len(server.frontends()) == 2, 60, "two are left")
            wait_until(server.ready, 30, "it serves")


def test_a_version_with_another_protocol_is_refused(run_dirs: Path, tmp_path: Path) -> None:
    # Frontends that start when there is a `newer` file are of another version.
    changed = tmp_path / "newer"
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, sys\n"
        f"if pathlib.Path({str(changed)!r}).exists():\n"
        "    import vgate.wire.messages as messages\n"
        "    messages.PROTOCOL_VERSION += 1\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
        with configured(run_dirs, tmp_path) as server:
            before = server.frontends()
            changed.touch()
            done = server.reload()
            changed.unlink()
            assert done.returncode == 1
            assert "protocol" in done.stderr
            wait_until(lambda: server.frontends() == before, 60, "only the earlier ones are left")
            assert server.ready()
            assert server.reload().returncode == 0


def test_two_signals_and_a_stop_in_the_middle(run_dirs: Path, tmp_path: Path) -> None:
    with configured(run_dirs, tmp_path, dry_run__step_ms=20) as server:
        assert server.process is not None
        stream = Request(server.url, endless(stream=True, max_tokens=100)).wait_for_text()
        for _ in range(2):
            server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "new frontends serve" in server.logs(), _RELOAD_S, "the first is done")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.frontends()) > 4, _RELOAD_S, "another has begun")
        processes = server.processes()
        assert server.stop() == 0
        assert stream.wait().done
        assert not any(process.is_running() for process in processes)
        assert not server.run_dir.exists()


def test_nobody_to_reload(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vgate.launcher", "reload"]
    for more in (["--run-dir", str(tmp_path)], ["--port", "1", "--config", os.devnull]):
        done = subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith("vgate: no V-Gate runs in ")
        assert "--run-dir" in done.stderr
