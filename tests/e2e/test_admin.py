"""The running requests of several workers, from whichever worker answers."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, endless

COUNT = 8


@pytest.fixture(scope="module")
def server(run_dirs):
    with Instance(run_dirs, dry_run=True, server__workers=2, dry_run__step_ms=20) as instance:
        yield instance


def listed(server):
    return httpx.get(f"{server.url}/admin/requests", timeout=10).json()


def of_both_workers(server):
    found = listed(server)["data"]
    return found if len(found) == COUNT else None


def test_any_worker_lists_and_ends_the_requests_of_all(server):
    with ThreadPoolExecutor(COUNT) as clients:
        answers = [
            clients.submit(httpx.post, server.url + CHAT, json=endless(max_tokens=2000), timeout=90)
            for _ in range(COUNT)
        ]
        rows = wait_until(lambda: of_both_workers(server), 30, "all are there")
        assert {row["worker"] for row in rows} == {"frontend-1", "frontend-2"}
        ages = [row["age_s"] for row in rows]
        assert ages == sorted(ages, reverse=True)
        # Connections of their own, so both workers are asked.
        for row in rows:
            answer = httpx.post(f"{server.url}/admin/requests/{row['id']}/cancel", timeout=10)
            assert answer.status_code == 200
        assert {answer.result().status_code for answer in answers} == {403}
    assert listed(server)["data"] == []
    told = [f"request_id={row['id']} by=127.0.0.1" for row in rows]
    wait_until(lambda: all(line in server.logs() for line in told), 10, "the log has it")
    wait_until(lambda: server.logs().count("status=403") == COUNT, 10, "and each end")
    assert all("cancelled_by=127.0.0.1" in line for line in finished(server, "status=403"))


def finished(server, field):
    lines = [line for line in server.logs().splitlines() if "request finished" in line]
    found = [line for line in lines if field in line]
    assert found
    return found


def test_a_stopped_worker_is_named(server):
    pids = server.pids()
    stopped = pids["frontend-2"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        # Connections that the kernel gives to the stopped one get no answer.
        found = wait_until(lambda: answered(server), 60, "an answer of the other")
        assert found["silent_workers"] == ["frontend-2"]
        assert found["data"] == []
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: listed(server)["silent_workers"] == [], 30, "both answer")


def answered(server):
    try:
        return httpx.get(f"{server.url}/admin/requests", timeout=2).json()
    except httpx.TimeoutException:
        return None


def scraped(server, accept="application/openmetrics-text; version=1.0.0"):
    return httpx.get(f"{server.url}/metrics", headers={"accept": accept}, timeout=10).text


def samples(server):
    families = text_string_to_metric_families(scraped(server))
    return [sample for family in families for sample in family.samples]


def test_metrics_tell_what_runs_and_its_memory(server):
    found = samples(server)
    (build,) = [sample for sample in found if sample.name == "vgate_build_info"]
    assert build.labels.keys() == {"version", "backend", "python"}
    assert (build.labels["backend"], build.value) == ("dry_run", 1)
    memory = {
        sample.labels["process"]: sample.value
        for sample in found
        if sample.name == "vgate_process_memory_bytes"
    }
    assert memory.keys() == {"launcher", "engine", "frontend-1", "frontend-2"}
    assert all(10 << 20 < size < 1 << 30 for size in memory.values())


def test_latencies_have_examples_and_names_of_clients_make_no_series(server):
    def ask():
        names = {"model": "gpt-5", "prompt": "x", "max_tokens": 2}
        headers = {"x-request-id": "mine"}
        url = f"{server.url}/v1/completions"
        assert httpx.post(url, json=names, headers=headers, timeout=30).status_code == 200
        return {
            sample.name.removesuffix("_bucket")
            for sample in samples(server)
            if sample.exemplar and sample.exemplar.labels == {"request_id": "mine"}
        }

    # The worker that answers shows its own.
    wait_until(
        lambda: (
            ask()
            >= {
                "vgate_generation_latency_seconds",
                "vgate_request_latency_seconds",
                "vgate_ttft_seconds",
            }
        ),
        30,
        "examples",
    )
    assert "gpt-5" not in scraped(server)
    assert "mine" not in scraped(server, "text/plain")
    prefills = [s for s in samples(server) if s.name == "vgate_prefill_time_seconds_count"]
    assert [sample.value > 0 for sample in prefills] == [True]


def test_stats_have_the_histograms_of_what_requests_wait_for(server):
    for _ in range(4):
        body = endless(max_tokens=10)
        assert httpx.post(server.url + CHAT, json=body, timeout=30).status_code == 200
    # A heartbeat later.
    histograms = wait_until(lambda: counted(server), 30, "all are counted")
    for histogram in histograms.values():
        assert len(histogram["counts"]) == len(histogram["bounds"]) + 1
    # A step takes 20 ms at least.
    for name, shortest_s in (("inter_token_s", 0.02), ("prefill_s", 0.01)):
        below = [bound for bound in histograms[name]["bounds"] if bound <= shortest_s]
        assert sum(histograms[name]["counts"][: len(below)]) == 0


def counted(server):
    found = httpx.get(f"{server.url}/stats", timeout=10).json()["histograms"]
    assert found.keys() == {"ttft_s", "inter_token_s", "queue_s", "prefill_s"}
    least = {"ttft_s": 4, "inter_token_s": 40, "queue_s": 4, "prefill_s": 4}
    return found if all(sum(found[name]["counts"]) >= n for name, n in least.items()) else None
