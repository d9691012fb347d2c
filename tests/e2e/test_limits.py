"""Full queues and deadlines are refused with a clear status and a Retry-After."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.test_failures import check_cut_off
from tests.e2e.traffic import CHAT, MODEL, EngineProbe, Request, chat, endless

LONG = {"max_tokens": 100}


@pytest.fixture(scope="module")
def small(run_dirs: Path) -> Iterator[Instance]:
    """An engine that runs one request while two wait."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=2,
        batch__max_num_seqs=1,
        batch__max_queue_size=2,
        dry_run__step_ms=20,
        timeouts__queue_s=3,
        timeouts__request_s=6,
    ) as server:
        yield server


@pytest.fixture
def engine(small: Instance) -> Iterator[EngineProbe]:
    with EngineProbe(small.run_dir) as engine:
        engine.wait_idle()
        yield engine
        engine.wait_idle(60)


def occupy(small: Instance, engine: EngineProbe) -> Request:
    """Start a request that exceeds its deadline."""
    running = Request(small.url, endless(stream=True)).wait_for_text()
    wait_until(lambda: engine.status().running == 1, 10, "it runs")
    return running


def test_a_full_queue_refuses_at_once(small: Instance, engine: EngineProbe):
    hi = [{"role": "user", "content": "hi"}]
    # Clients are made before the queue is full, which it is for two seconds.
    with small.client() as client, httpx.Client(base_url=small.url) as http:
        running = Request(small.url, endless(stream=True, **LONG)).wait_for_text()
        waiting = [Request(small.url, chat(f"waits {n}")) for n in range(2)]
        wait_until(lambda: engine.status().waiting == 2, 10, "the queue fills")
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model=MODEL, messages=hi)
        answers = [http.post(CHAT, json=chat("hi", stream=stream)) for stream in (False, True)]
    assert refused.value.status_code == 503
    for response in answers:
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "overloaded"
        assert 1 <= int(response.headers["retry-after"]) <= 60
    assert small.ready()
    # The admitted requests were not affected.
    assert running.wait().done
    assert [r.wait().status for r in waiting] == [200, 200]


def test_choices_that_do_not_all_fit_are_refused_together(small: Instance, engine: EngineProbe):
    response = httpx.post(small.url + CHAT, json=endless(n=8, **LONG))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "overloaded"


def test_waiting_requests_time_out(small: Instance, engine: EngineProbe):
    running = occupy(small, engine)
    waiting = [Request(small.url, chat("hi", stream=stream)) for stream in (False, True)]
    for request in waiting:
        assert request.wait().status == 503
        assert request.answer["error"]["code"] == "queue_timeout"
        assert int(request.headers["retry-after"]) >= 1
    assert running.is_alive()
    running.wait()


def test_a_stream_past_its_deadline_is_cut_off_with_an_error(small: Instance, engine: EngineProbe):
    stream = occupy(small, engine)
    check_cut_off(stream.wait(), "deadline_exceeded")


def test_a_request_past_its_deadline_is_a_timeout(small: Instance, engine: EngineProbe):
    request = Request(small.url, endless()).wait()
    assert request.status == 504
    assert request.answer["error"]["code"] == "deadline_exceeded"


def test_no_problem_was_logged(small: Instance):
    assert small.has_problem() is None
