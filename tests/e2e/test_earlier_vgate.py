"""Configuration, commands, headers and metrics of the earlier V-Gate still work."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from vgate import __version__

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

TIMEOUT_S = 60
MODEL = "Qwen/Qwen2.5-1.5B-Instruct-AWQ"
KEY = "sk-vgate-prod-xxxxx"
LIMIT = 100
WINDOW_S = 600

CONFIG = f"""
version: "0.3.2"

server:
  host: "0.0.0.0"
  port: 8000

model:
  model_id: "{MODEL}"
  quantization: "awq"
  gpu_memory_utilization: 0.7
  max_model_len: 2048

batch:
  max_batch_size: 8
  max_wait_time_ms: 50.0

cache:
  enabled: true
  maxsize: 1000

logging:
  level: "INFO"
  json_format: true

security:
  enabled: false
  api_keys:
    - key: "{KEY}"
      name: "production"
      rate_limit: {LIMIT}
  rate_limiting:
    enabled: true
    default_limit: 60
    window_seconds: 60
  exempt_paths:
    - "/health"
    - "/metrics"
"""

HEALTH = "curl http://localhost:8000/health"
CHAT = """curl -X POST http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer sk-vgate-xxxxx" \\
  -d '{
    "model": "Qwen/Qwen2.5-1.5B-Instruct-AWQ",
    "messages": [{"role": "user", "content": "What is 2+2?"}],
    "max_tokens": 100
  }'
"""
STREAMED_CHAT = CHAT.replace("curl", "curl -N").replace("100", '100,\n    "stream": true')
METRICS = "curl http://localhost:8000/metrics"
STATS = "curl http://localhost:8000/stats"
# curl sends it as a form, and no model has the name.
CHAT_WITH_KEY = """curl -H "Authorization: Bearer sk-vgate-prod-xxxxx" \\
     http://localhost:8000/v1/chat/completions \\
     -d '{"model": "qwen", "messages": [{"role": "user", "content": "Hello"}]}'
"""

SERIES = (
    'vgate_requests_total{endpoint="/v1/chat/completions",method="POST",status="200"}',
    'vgate_request_latency_seconds_bucket{endpoint="/v1/chat/completions",',
    "vgate_batch_size_bucket{",
    "vgate_batch_processing_seconds_bucket{",
    "vgate_ttft_seconds_bucket{",
    "vgate_tpot_seconds_bucket{",
    "vgate_tokens_generated_total{",
    "vgate_cache_hits_total 1.0",
    "vgate_cache_misses_total 1.0",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("earlier") / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def start(run_dirs: Path, config: str):
    """Starts the configuration unchanged, except for the port and the tests' own settings."""

    def start_(**settings: Any) -> Instance:
        return Instance(run_dirs, dry_run=True, config_path=config, cache__enabled=True, **settings)

    return start_


@pytest.fixture(scope="module")
def open_to_all(start: Any) -> Iterator[Instance]:
    with start() as instance:
        yield instance


@pytest.fixture(scope="module")
def with_keys(start: Any) -> Iterator[Instance]:
    with start(
        security__enabled=True,
        security__rate_limiting__window_seconds=WINDOW_S,
        model__served_model_name=[MODEL, "qwen"],
    ) as instance:
        yield instance


def run(instance: Instance, command: str) -> str:
    """Run a documented command on the instance's port."""
    done = subprocess.run(
        ["sh", "-c", command.replace("localhost:8000", f"127.0.0.1:{instance.port}")],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_with_headers(instance: Instance, command: str) -> tuple[int, httpx.Headers, Any]:
    """Run a curl command and return status, headers and body."""
    head, _, body = run(instance, command.replace("curl", "curl -i", 1)).partition("\n\n")
    status, *lines = head.splitlines()
    headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines])
    return int(status.split()[1]), headers, json.loads(body)


def test_health(open_to_all: Instance):
    assert run(open_to_all, HEALTH) == f'{{"status":"ok","version":"{__version__}"}}'


def test_a_chat_and_its_metrics(open_to_all: Instance):
    first = json.loads(run(open_to_all, CHAT))
    assert first["object"] == "chat.completion"
    assert first["model"] == MODEL
    (choice,) = first["choices"]
    assert choice["message"] == {"role": "assistant", "content": "What is 2+2?"} | {
        name: value for name, value in choice["message"].items() if value is None
    }
    assert choice["finish_reason"] == "stop"
    usage = first["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    status, headers, again = run_with_headers(open_to_all, CHAT)
    assert (status, headers["x-vgate-cache"]) == (200, "hit")
    assert again["choices"] == first["choices"]
    # What the engine counts comes with its next heartbeat, the rest at once.
    wait_until(
        lambda: all(series in run(open_to_all, METRICS) for series in SERIES),
        TIMEOUT_S,
        "all metrics are shown",
    )
    stats = json.loads(run(open_to_all, STATS))
    assert stats["cache"]["hits"] == 1
    assert stats["requests"]["total"] >= 2


def test_a_streamed_chat(open_to_all: Instance):
    events = run(open_to_all, STREAMED_CHAT).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == "What is 2+2?"


def test_lines_of_the_log_are_json(open_to_all: Instance):
    run(open_to_all, CHAT)
    lines = [line for line in open_to_all.logs().splitlines() if line.startswith("{")]
    finished = [json.loads(line) for line in lines if "request finished" in line]
    assert {"/v1/chat/completions"} <= {line["path"] for line in finished}


def test_the_only_model_serves_other_names(open_to_all: Instance):
    status, headers, body = run_with_headers(open_to_all, CHAT_WITH_KEY)
    assert (status, headers["x-vgate-ignored"]) == (200, "model")
    assert body["model"] == MODEL


def test_a_chat_with_a_key_and_its_limit(with_keys: Instance):
    status, headers, body = run_with_headers(with_keys, CHAT_WITH_KEY)
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert headers["x-ratelimit-limit"] == str(LIMIT)
    assert headers["x-ratelimit-remaining"] == str(LIMIT - 1)
    reset = int(headers["x-ratelimit-reset"])
    for left in range(LIMIT - 2, -1, -1):
        answer = httpx.get(
            f"{with_keys.url}/version",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=TIMEOUT_S,
        )
        assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, str(left))
    status, headers, body = run_with_headers(with_keys, CHAT_WITH_KEY)
    assert status == 429
    # The same moment, on another clock.
    assert abs(int(headers["x-ratelimit-reset"]) - reset) <= 1
    assert 1 <= int(headers["retry-after"]) <= WINDOW_S
    assert body["error"]["code"] == "rate_limit_exceeded"
    assert body["detail"]
    assert body["retry_after"] == int(headers["retry-after"])


def test_without_the_key(with_keys: Instance):
    for command in (CHAT, STATS):
        status, headers, body = run_with_headers(with_keys, command)
        assert (status, headers["www-authenticate"][:6]) == (401, "Bearer")
        assert body["detail"]
    assert json.loads(run(with_keys, HEALTH))["status"] == "ok"
    assert "vgate_requests_total" in run(with_keys, METRICS)
