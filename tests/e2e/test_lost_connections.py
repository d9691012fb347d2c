"""Clients that lose their connections in mid-stream, and take the streams up in another worker."""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.frontend.test_taking_up import CASES, events_of, id_of

KEYS = {name: f"{name}-secret-000000000000" for name in ("one", "same", "other", "admin")}
WORKERS = 3


@pytest.fixture(scope="module")
def server(run_dirs: Path) -> Iterator[Instance]:
    keys: list[dict[str, Any]] = [{"name": name, "key": key} for name, key in KEYS.items()]
    for key in keys[:2]:
        key["group"] = "team"
    keys[2] |= {"concurrent": 1, "tokens_per_minute": 100_000, "rate_limit": 1000}
    keys[3]["admin"] = True
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=WORKERS,
        server__replay_s=20,
        dry_run__step_ms=10,
        security__enabled=True,
        security__api_keys=keys,
    ) as instance:
        yield instance


class Stream:
    """One connection's part of a stream."""

    def __init__(
        self, server: Instance, case: str, last: str | None, method: str, key: str
    ) -> None:
        path, fields = CASES[case]
        headers = {"Authorization": f"Bearer {KEYS[key]}", "X-VGate-Resumable": "true"}
        if last is not None:
            headers["Last-Event-ID"] = last
        body = {"model": "m", "stream": True, **fields} if method == "POST" else None
        self._client = httpx.Client(timeout=30)
        request = self._client.build_request(method, server.url + path, json=body, headers=headers)
        self.response = self._client.send(request, stream=True)
        self._lines = self.response.iter_raw()
        self.body = b""

    def read(self, most: int | None = None) -> list[str]:
        """Read until there are so many events, or to the end, or until the connection breaks."""
        try:
            while most is None or len(events_of(self.body)) < most:
                self.body += next(self._lines)
        except (StopIteration, httpx.TransportError):
            self.close()
        return events_of(self.body[: self.body.rfind(b"\n\n") + 2])[:most]

    def close(self) -> None:
        self.response.close()
        self._client.close()

    def worker(self, server: Instance) -> int:
        """Return the pid of the worker that serves it."""
        port = self.response.extensions["network_stream"].get_extra_info("client_addr")[1]
        return worker_of(server, port)


def worker_of(server: Instance, port: int) -> int:
    """Return the pid of the worker that serves the client at a port."""
    workers = [pid for role, pid in server.pids().items() if role.startswith("frontend")]
    for pid in workers:
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                return pid
    raise AssertionError(workers)


def begin(server: Instance, case: str, last: str | None = None, method="POST", key="one") -> Stream:
    stream = Stream(server, case, last, method, key)
    assert stream.response.status_code == 200, stream.response.read()
    return stream


def data_of(events: list[str]) -> dict[object, list[Any]]:
    """Return the events' data by choice, without what differs between two requests."""
    found: dict[object, list[Any]] = {}
    for event in events:
        text = event.partition("data: ")[2]
        data = text if text == "[DONE]" else json.loads(text)
        choices = data.get("choices") if isinstance(data, dict) else None
        found.setdefault(choices[0]["index"] if choices else None, []).append(_plain(data))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = {"id", "item_id", "call_id", "created", "created_at", "completed_at", "usage"}
        return {k: _plain(v) for k, v in value.items() if k not in left_out}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def take_up(server: Instance, case: str, got: list[str], rng: random.Random) -> list[str]:
    """Lose the connection and take the stream up, until it has ended; return all events."""
    for _ in range(100):
        method = rng.choice(["POST", "GET"])
        stream = begin(server, case, id_of(got[-1]), method, rng.choice(["one", "same"]))
        most = rng.randrange(1, 40)
        new = stream.read(most)
        got = got + new
        stream.close()
        if len(new) < most:
            return got
    raise AssertionError(len(got))


@pytest.mark.parametrize("case", CASES)
def test_cut_anywhere_a_stream_is_the_same(server: Instance, case: str):
    rng = random.Random(case)
    whole = data_of(begin(server, case).read())
    for _ in range(3):
        stream = begin(server, case)
        got = stream.read(rng.randrange(1, 30))
        stream.close()
        assert data_of(take_up(server, case, got, rng)) == whole


@pytest.mark.parametrize("case", ["chat", "choices", "tools", "responses", "messages"])
def test_a_killed_workers_streams_go_on_in_another(server: Instance, case: str):
    rng = random.Random(case)
    whole = data_of(begin(server, case).read())
    stream = begin(server, case)
    got = stream.read(5)
    os.kill(stream.worker(server), signal.SIGKILL)
    got = stream.read()
    assert not stream.body.endswith(b"[DONE]\n\n")
    assert data_of(take_up(server, case, got, rng)) == whole
    wait_until(lambda: len(server.pids()) == WORKERS + 1 and server.ready(), 30, "a new worker")


def test_a_killed_engines_streams_go_on(server: Instance):
    whole = data_of(begin(server, "chat").read())
    for _ in range(2):
        stream = begin(server, "chat")
        got = stream.read(5)
        stream.close()
        os.kill(server.pid_of("engine"), signal.SIGKILL)
        wait_until(server.ready, 30, "a new engine")
        stream = begin(server, "chat", id_of(got[-1]), "GET")
        got += stream.read(5)
        stream.close()
        # Another one goes on in the next engine by itself.
        stream = begin(server, "chat", id_of(got[-1]), "GET")
        got += stream.read(5)
        os.kill(server.pid_of("engine"), signal.SIGKILL)
        got += stream.read()[5:]
        assert data_of(got) == whole
        wait_until(server.ready, 30, "a new engine")


def test_only_the_same_group_takes_a_stream_up(server: Instance):
    events = begin(server, "chat").read()
    stranger = Stream(server, "chat", id_of(events[3]), "GET", "other")
    assert stranger.response.status_code == 404
    assert json.loads(stranger.response.read())["error"]["code"] == "stream_not_found"
    stranger.close()
    assert begin(server, "chat", id_of(events[3]), "GET", "same").read() == events[4:]


def test_a_stream_counts_once(server: Instance):
    def used() -> dict[str, int]:
        row = server.stats(KEYS["admin"])["other"]
        return {name: row[name] for name in ("requests", "tokens", "concurrent")}

    before = used()
    whole = begin(server, "usage", key="other").read()
    wait_until(lambda: used()["concurrent"] == 0, 10, "ended")
    once = used()
    streams = [begin(server, "usage", key="other")]
    got = streams[0].read(10)
    for _ in range(3):
        # The connection before isn't closed: it is superseded, and its slot becomes free.
        streams.append(begin(server, "usage", id_of(got[-1]), "GET", key="other"))
        got += streams[-1].read(10)
    got += begin(server, "usage", id_of(got[-1]), "GET", key="other").read()
    for stream in streams:
        assert len(stream.read()) >= 10
    assert data_of(got) == data_of(whole)
    for place in (0, 5):
        begin(server, "usage", id_of(got[place]), "POST", key="other").read()
    wait_until(lambda: used()["concurrent"] == 0, 10, "ended")
    twice = used()
    assert once["requests"] - before["requests"] == twice["requests"] - once["requests"] == 1
    assert twice["tokens"] - once["tokens"] == once["tokens"] - before["tokens"] > 0


def test_no_process_has_met_what_it_did_not_expect(server: Instance):
    assert "Traceback" not in server.logs()
    assert "malformed" not in server.logs()
