"""V-Gate with vLLM's engine on a paced device."""

import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from bench.compare.contenders import build
from bench.compare.models import Models
from bench.compare.service import Running
from bench.compare.settings import Settings, Setup
from bench.paced_device.device import Counters, Device

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]

TOKENS, STEP_S = 40, 0.02


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    work = tmp_path_factory.mktemp("paced")
    device = Device(base_us=STEP_S * 1e6, sequence_us=1, prompt_token_us=1)
    settings = Settings(device=device, kv_cache_tokens=4096)
    with Running(build("vgate", Setup(models=Models(work), work=work), settings)) as running:
        yield running


def ask(running: Running) -> str:
    prompt = {"messages": [{"role": "user", "content": "a lighthouse"}]}
    body = prompt | {"model": "tiny", "max_tokens": TOKENS, "ignore_eos": True}
    path = "/v1/chat/completions"
    status, _, answer = running.service.post(path, json.dumps(body).encode(), 60)
    document = json.loads(answer)
    assert status == 200, document
    assert document["usage"]["completion_tokens"] == TOKENS
    return str(document["choices"][0]["message"]["content"])


def counters(running: Running) -> Counters:
    path = running.service.counters
    assert isinstance(path, Path)
    return Counters.read(path)


def test_tokens_come_at_the_devices_pace_and_are_always_the_same(running: Running) -> None:
    before, began = counters(running), monotonic()
    first = ask(running)
    took_s = monotonic() - began
    did = counters(running).since(before)
    assert first.strip()
    assert took_s >= TOKENS * STEP_S
    assert (did.tokens, did.started, did.resumed) == (TOKENS, 1, 0)
    assert TOKENS * STEP_S * 1e6 <= did.busy_us < (TOKENS + 3) * (STEP_S * 1e6 + 100)
    assert ask(running) == first
    assert "KV cache 4096 tokens" in running.log_tail()
