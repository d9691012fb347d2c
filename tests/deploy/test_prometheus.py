"""A real Prometheus reads what was sent, and has nothing to complain about."""

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.e2e.instance import Instance, free_port, wait_until
from tests.e2e.traffic import CHAT, chat

TIMEOUT_S = 60
JOB = "vgate"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not installed (Debian's package has its name)",
    ),
]


class Prometheus:
    """A server that scrapes one target; a context manager."""

    def __init__(self, directory: Path, target: str) -> None:
        self._url = f"http://127.0.0.1:{free_port()}"
        self._log_path = directory / "log"
        # As deploy/prometheus/prometheus.yml, without its rules and with a shorter interval.
        job = {"job_name": JOB, "static_configs": [{"targets": [target]}]}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self._command = [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
            # What is wrong with single samples is told at this level only.
            "--log.level=debug",
            "--log.format=json",
        ]

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()

    def complaints(self) -> list[str]:
        """Return what it has logged about its target: it has nothing to say of one that is fine."""
        return [
            line
            for line in self._log_path.read_text().splitlines()
            # On a busy machine an interval may be too short.
            if {"target", "scrape_pool"} & set(json.loads(line)) and "deadline exceeded" not in line
        ]

    def ask(self, query: str, label: str = "", at: float | None = None) -> dict[str, float]:
        """Return the values that a query has at a time, by a label; none before it answers."""
        assert self._process.poll() is None, self._log_path.read_text()
        asked = {"query": query} if at is None else {"query": query, "time": f"{at:.3f}"}
        try:
            answer = httpx.get(f"{self._url}/api/v1/query", params=asked, timeout=TIMEOUT_S)
        except httpx.ConnectError:
            return {}
        # Until it has read its own files it is 503.
        rows = answer.json()["data"]["result"] if answer.status_code == 200 else []
        return {row["metric"].get(label, ""): float(row["value"][1]) for row in rows}


@pytest.fixture
def prometheus(tmp_path: Path, dry_run: Instance) -> Iterator[Prometheus]:
    with Prometheus(tmp_path, dry_run.url.removeprefix("http://")) as server:
        wait_until(lambda: server.ask("up").get("") == 1, TIMEOUT_S, "a scrape")
        yield server


def send(url: str, number: int) -> tuple[int, dict[str, int]]:
    """Send one of several kinds of request; return the status and the usage that were told."""
    body = chat(f"Say it for the {number}th time.")
    if number % 4 == 1:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    elif number % 8 == 3:
        body["temperature"] = -1
    answer = httpx.post(url + CHAT, json=body, timeout=TIMEOUT_S)
    if answer.status_code != 200:
        return answer.status_code, {}
    if not body.get("stream"):
        return 200, answer.json()["usage"]
    *_, last, done = answer.text.rstrip().split("\n\n")
    assert done == "data: [DONE]"
    return 200, json.loads(last.removeprefix("data: "))["usage"]


def test_what_was_sent_is_what_prometheus_counts(prometheus: Prometheus, dry_run: Instance):
    # Each on a connection of its own, so that both workers get some.
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(send, [dry_run.url] * 48, range(48)))
    statuses = Counter(str(status) for status, _ in told)
    assert set(statuses) == {"200", "400"}
    # The engine counts too, and tells with its next heartbeat.
    complete = {"": statuses["200"]}
    success = "sum(vllm:request_success_total)"
    wait_until(lambda: prometheus.ask(success) == complete, TIMEOUT_S, "all complete ones")
    ended_at = time.time()
    usages = [usage for _, usage in told if usage]
    last_scrape = f'timestamp(up{{job="{JOB}"}} == 1)'

    def scraped_after_it() -> float:
        began = prometheus.ask(last_scrape).get("", 0)
        return began if began > ended_at + 1 else 0

    # All is asked for as of that scrape: one that fails makes what was before it disappear.
    ask = partial(prometheus.ask, at=wait_until(scraped_after_it, TIMEOUT_S, "a later scrape"))
    requests = f'sum by (status) (vgate_requests_total{{endpoint="{CHAT}",job="{JOB}"}})'
    assert ask(requests, "status") == statuses
    for counter, name in (
        ("vgate_prompt_tokens_total", "prompt_tokens"),
        ("vgate_tokens_generated_total", "completion_tokens"),
        ("vllm:prompt_tokens_total", "prompt_tokens"),
        ("vllm:generation_tokens_total", "completion_tokens"),
    ):
        assert ask(f'sum({counter}{{job="{JOB}"}})') == {"": sum(usage[name] for usage in usages)}
    # As gateways and autoscalers ask.
    assert ask("vllm:num_requests_waiting", "engine") == {"0": 0}
    assert ask("vllm:kv_cache_usage_perc", "model_name") == {chat("")["model"]: 0}
    assert ask(success) == complete
    buckets = "sum by (le) (vllm:time_to_first_token_seconds_bucket)"
    assert ask(f"histogram_quantile(0.5, {buckets})")[""] > 0
    # Of a series that comes twice in a scrape older versions say nothing.
    series = f'count({{job="{JOB}",__name__!~"up|scrape_.*"}})'
    assert ask(f'sum(scrape_samples_scraped{{job="{JOB}"}}) - {series}') == {"": 0}
    assert prometheus.complaints() == []
