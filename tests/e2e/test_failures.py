"""Processes that die or hang: requests continue or get an error, and serving resumes."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, EngineProbe, Request, chat, endless

# How long it may take until clients hear of a death. It is milliseconds on a quiet machine.
HEARD_S = 5
RECOVERED_S = 30


@contextmanager
def instance(run_dirs: Path, **settings):
    """Start an instance whose small batch is slow enough to be interrupted."""
    defaults = {"server__workers": 2, "batch__max_num_seqs": 4, "dry_run__step_ms": 20}
    with Instance(run_dirs, dry_run=True, **(defaults | settings)) as started:
        yield started


def wait_served(server: Instance) -> None:
    """Wait until every frontend is ready again, and a request is answered."""
    # Each try is a new connection, so it meets any of the frontends.
    wait_until(lambda: all(server.ready() for _ in range(10)), RECOVERED_S, "ready again")
    assert httpx.post(server.url + CHAT, json=chat("back")).status_code == 200


def check_cut_off(stream: Request, code: str) -> None:
    """Check that a stream ended with an explicit error."""
    assert stream.status == 200
    assert stream.broken is None
    assert stream.error is not None
    assert stream.error["error"]["code"] == code
    assert stream.error["detail"] == stream.error["error"]["message"]
    assert not stream.done
    assert stream.finish_reason is None


def check_unavailable(request: Request) -> None:
    """Check that a request without output was refused with a Retry-After."""
    assert request.broken is None
    assert request.status == 503
    assert request.answer["error"]["code"] == "engine_unavailable"
    assert int(request.headers["retry-after"]) >= 1


def test_without_resuming_every_client_gets_an_error_when_the_engine_dies(
    run_dirs: Path, record_property
):
    with (
        instance(run_dirs, supervision__resume_requests=False) as server,
        EngineProbe(server.run_dir) as engine,
    ):
        streams = [Request(server.url, endless(stream=True)).wait_for_text() for _ in range(4)]
        waiting = [Request(server.url, chat("hi", stream=True)) for _ in range(8)]
        waiting += [Request(server.url, chat("hi")) for _ in range(8)]
        wait_until(lambda: engine.status().waiting == 16, 10, "the queue fills")
        pid = server.pid_of("engine")
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(lambda: not server.ready(), HEARD_S, "/ready turns")
        record_property("ready_turned_s", round(time.monotonic() - killed_at, 3))
        refused = httpx.get(server.url + "/ready")
        if refused.status_code == 503:
            assert refused.json()["reason"]
        for stream in streams:
            check_cut_off(stream.wait(), "engine_unavailable")
        for request in waiting:
            check_unavailable(request.wait())
        heard_s = max(r.ended_at for r in [*streams, *waiting]) - killed_at
        record_property("heard_s", round(heard_s, 3))
        print(f"\nlast client heard of the engine's death after {heard_s:.3f} s")
        assert heard_s < HEARD_S
        wait_served(server)
        print(f"served again after {time.monotonic() - killed_at:.2f} s")
        assert server.pid_of("engine") != pid
        assert "Traceback" not in server.logs()


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_running_requests_continue_in_the_next_engine(run_dirs: Path, sig: signal.Signals):
    # Slow enough for all to be there before the first one ends.
    settings = {
        "batch__max_num_seqs": 32,
        "dry_run__step_ms": 50,
        "supervision__hang_timeout_s": 4,
    }
    with instance(run_dirs, **settings) as server, EngineProbe(server.run_dir) as engine:
        usage = {"stream_options": {"include_usage": True}}
        texts = [f"number {number} goes on and on " for number in range(60)]
        streams = [
            Request(server.url, endless(text, stream=True, max_tokens=200, stop=["never"], **usage))
            for text in texts[:20]
        ]
        for stream in streams:
            stream.wait_for_text()
        whole = [Request(server.url, endless(text, max_tokens=150)) for text in texts[20:40]]
        queued = [
            Request(
                server.url, chat(text, stream=number % 2 == 0, **(usage if number % 2 == 0 else {}))
            )
            for number, text in enumerate(texts[40:])
        ]
        wait_until(lambda: engine.status().waiting == 60 - 32, 10, "the queue fills")
        os.kill(pid := server.pid_of("engine"), sig)
        if sig == signal.SIGTERM:  # which lets them finish; a second one does not
            wait_until(lambda: engine.status().draining, 10, "it drains")
            os.kill(pid, sig)
        for stream, text in zip(streams, texts, strict=False):
            stream.wait()
            assert stream.error is stream.broken is None
            assert (stream.done, stream.finish_reason) == (True, "length")
            assert stream.text == (text * 10)[:200]
            assert stream.usage["completion_tokens"] == 200
        for request, text in zip(whole, texts[20:], strict=False):
            assert request.wait().status == 200, request.answer
            assert text_of(request.answer) == (text * 10)[:150]
            assert request.answer["usage"]["completion_tokens"] == 150
        for request, text in zip(queued, texts[40:], strict=True):
            assert request.wait().status == 200, request.answer
            counts = request.usage if request.done else request.answer["usage"]
            assert (request.text if request.done else text_of(request.answer)) == text
            assert counts["completion_tokens"] == len(text) + 1
        assert "lost the engine" in server.logs()
        assert "engine is back" in server.logs()
        metrics = httpx.get(server.url + "/metrics").text
        assert "vgate_resumed_requests_total 60.0" in metrics
        wait_served(server)


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_a_stream_that_cannot_continue_exactly_ends_with_an_error(run_dirs: Path):
    with instance(run_dirs) as server, EngineProbe(server.run_dir) as engine:
        bodies = [{"presence_penalty": 0.5}, {"bad_words": ["zebra"]}]
        streams = [
            Request(server.url, endless(stream=True, temperature=1, **body)).wait_for_text()
            for body in bodies
        ]
        whole = Request(server.url, endless(max_tokens=50, bad_words=["zebra"], temperature=1))
        # With a seed it is generated again.
        text, seed = "on and on ", {"seed": 1, "presence_penalty": 0.5, "temperature": 1}
        sure = Request(server.url, endless(text, stream=True, max_tokens=150, **seed))
        sure.wait_for_text()
        wait_until(lambda: engine.status().running == 4, 10, "all run")
        os.kill(server.pid_of("engine"), signal.SIGKILL)
        for stream in streams:
            check_cut_off(stream.wait(), "engine_unavailable")
        assert whole.wait().status == 200
        assert (sure.wait().text, sure.done) == ((text * 15)[:150], True)
        wait_served(server)


def test_a_request_fails_after_two_engines_died_running_it(run_dirs: Path):
    with instance(run_dirs) as server, EngineProbe(server.run_dir) as engine:
        stream = Request(server.url, endless(stream=True)).wait_for_text()
        whole = Request(server.url, endless())
        wait_until(lambda: engine.status().running == 2, 10, "both run")
        for _ in range(2):
            pid = server.pid_of("engine")
            heard = len(stream.text)
            os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda: len(stream.text) > heard + 5 or not stream.is_alive(),  # noqa: B023
                RECOVERED_S,
                "it goes on or ends",
            )
        check_cut_off(stream.wait(), "engine_unavailable")
        check_unavailable(whole.wait())
        wait_served(server)


@pytest.mark.parametrize("hold_s", [60, 0])
def test_a_request_while_the_engine_restarts(run_dirs: Path, hold_s: int):
    settings = {"server__workers": 1, "supervision__hold_requests_s": hold_s}
    with instance(run_dirs, **settings) as server:
        engine = psutil.Process(server.pid_of("engine"))
        engine.kill()
        wait_until(lambda: not server.ready(), HEARD_S, "/ready turns")
        requests = [Request(server.url, chat("hi", stream=stream)) for stream in (False, True)]
        assert httpx.get(server.url + "/health").status_code == 200
        assert httpx.get(server.url + "/v1/models").status_code == 200
        for request in requests:
            if request.wait().status != 200:
                assert not hold_s
                check_unavailable(request)
        assert not hold_s or [r.done for r in requests] == [False, True]
        wait_served(server)


def test_a_hung_engine_is_replaced(run_dirs: Path):
    settings = {"supervision__hang_timeout_s": 4, "supervision__resume_requests": False}
    with instance(run_dirs, **settings) as server:
        pid = server.pid_of("engine")
        stream = Request(server.url, endless(stream=True)).wait_for_text()
        os.kill(pid, signal.SIGSTOP)
        check_cut_off(stream.wait(), "engine_unavailable")
        wait_served(server)
        assert not psutil.pid_exists(pid)
        assert "hung: no step finished for 4 s" in server.logs()


def test_an_engine_that_pauses_briefly_is_kept(run_dirs: Path):
    with instance(run_dirs) as server:
        pid = server.pid_of("engine")
        stream = Request(server.url, endless(stream=True, max_tokens=100)).wait_for_text()
        os.kill(pid, signal.SIGSTOP)
        heard = len(stream.text)
        time.sleep(0.5)  # the pause itself
        os.kill(pid, signal.SIGCONT)
        assert len(stream.wait().text) == 100 > heard
        assert stream.done
        assert server.pid_of("engine") == pid


def test_a_frontend_is_killed(run_dirs: Path):
    with instance(run_dirs, batch__max_num_seqs=16) as server:
        with EngineProbe(server.run_dir) as engine:
            long = endless(stream=True, max_tokens=200)
            streams = [Request(server.url, long) for _ in range(16)]
            for stream in streams:
                stream.wait_for_text()
            victim = server.pid_of("frontend-1")
            connections = psutil.Process(victim).net_connections("tcp")
            its_own = sum(c.status == psutil.CONN_ESTABLISHED for c in connections)
            os.kill(victim, signal.SIGKILL)
            killed_at = time.monotonic()
            wait_until(
                lambda: engine.status().running == 16 - its_own, 10, "the engine drops orphans"
            )
            print(f"\norphans were dropped after {time.monotonic() - killed_at:.2f} s")
            broken = [s for s in streams if not s.is_alive() or s.broken]
            for stream in streams:
                # Those of the other frontend run to their end.
                if stream.wait().broken is None:
                    assert stream.done
                    assert stream.finish_reason == "length"
                else:
                    assert not stream.done
            assert sum(s.broken is not None for s in streams) == its_own >= len(broken) > 0
            engine.wait_idle()
        wait_until(lambda: len(server.pids()) == 3, RECOVERED_S, "it comes back")
        wait_served(server)


def test_requests_are_served_while_a_frontend_restarts(run_dirs: Path):
    with instance(run_dirs) as server:
        for _ in range(4):
            psutil.Process(server.pid_of("frontend-2")).kill()
            answered = 0
            while answered < 10:
                try:
                    answer = httpx.post(server.url + CHAT, json=chat("hi"), timeout=20)
                except httpx.TransportError:
                    # It was on its way to the frontend that died.
                    continue
                assert answer.status_code == 200
                answered += 1
            wait_until(lambda: "frontend-2" in server.pids(), RECOVERED_S, "it comes back")
        wait_served(server)


@pytest.mark.parametrize("role", ["frontend-1", "engine"])
def test_a_process_that_dies_over_and_over_ends_the_server(run_dirs: Path, role: str):
    with instance(run_dirs, supervision__max_restarts=2) as server:
        processes = server.processes()
        stream = None
        if role == "engine":
            stream = Request(server.url, endless(stream=True)).wait_for_text()
        for death in range(3):
            pid = wait_until(lambda: server.pids().get(role), RECOVERED_S, "it comes back")
            os.kill(pid, signal.SIGKILL)
            if death < 2:
                wait_until(lambda: server.pids().get(role, pid) != pid, RECOVERED_S, "a new one")  # noqa: B023
        assert server.process.wait(RECOVERED_S) == 1
        assert f"the {role} died 3 times: killed by SIGKILL" in server.logs().splitlines()[-1]
        check_gone(server, processes)
        assert not server.run_dir.exists()
        if stream is not None:
            # It was still waiting for an engine, or had met the second one's death.
            stream.wait()
            check_cut_off(stream, stream.error["error"]["code"])
            assert stream.error["error"]["code"] in {"shutting_down", "engine_unavailable"}


def check_gone(server: Instance, processes: list[psutil.Process]) -> None:
    """Check that no process of an instance is left."""
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health")


def test_the_launcher_is_killed(run_dirs: Path):
    with instance(run_dirs) as server:
        processes = server.processes()
        streams = [Request(server.url, endless(stream=True)).wait_for_text() for _ in range(4)]
        waiting = [Request(server.url, chat("hi")) for _ in range(4)]
        server.process.kill()
        killed_at = time.monotonic()
        server.process.wait()
        check_gone(server, processes)
        gone_s = time.monotonic() - killed_at
        print(f"\nall processes were gone after {gone_s:.2f} s")
        for request in [*streams, *waiting]:
            assert not request.wait().done
            assert request.status != 200 or request.error or request.broken
        # What it left behind is no obstacle.
        settings = {"server__run_dir": str(server.run_dir)}
        with instance(run_dirs, **settings) as successor:
            assert httpx.post(successor.url + CHAT, json=chat("hi")).status_code == 200


def test_the_launcher_and_its_hung_engine_are_killed(run_dirs: Path):
    """A stopped engine can't handle a signal when the launcher dies."""
    with instance(run_dirs) as server:
        processes = server.processes()
        os.kill(server.pid_of("engine"), signal.SIGSTOP)
        server.process.kill()
        server.process.wait()
        os.kill(processes[1].pid, signal.SIGCONT)
        check_gone(server, processes)
