"""Several tokens a step, as with speculative decoding: answers are those of one token a step.

The dry-run engine gives three tokens of each sequence, a token a byte.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, EngineProbe, Request, chat, endless

TEXT = "one STOP two, naïve 数学 🚂 and a tail"
CASES: list[dict[str, Any]] = [
    {},
    *({"max_tokens": most} for most in (1, 2, 3, 4, 10)),
    *({"stop": stop} for stop in ("STOP", " STOP two", "e", ["学", "tail"], "absent")),
    {"stop": "STOP", "max_tokens": 8},
    {"logprobs": True, "top_logprobs": 2, "max_tokens": 7},
    {"logprobs": True, "top_logprobs": 2, "stop": "OP t"},
    {"ignore_eos": True, "max_tokens": 100},
    {"min_tokens": 60, "max_tokens": 70},
]


def instance(run_dirs: Path, tokens_per_step: int, **settings: Any) -> Instance:
    return Instance(
        run_dirs,
        dry_run=True,
        dry_run__tokens_per_step=tokens_per_step,
        dry_run__prefix_cache=False,
        **settings,
    )


@pytest.fixture(scope="module")
def single(run_dirs: Path) -> Iterator[Instance]:
    with instance(run_dirs, 1, dry_run__step_ms=0.2) as one:
        yield one


@pytest.fixture(scope="module")
def several(run_dirs: Path) -> Iterator[Instance]:
    with instance(run_dirs, 3, dry_run__step_ms=0.2) as one:
        yield one
        assert not one.has_problem()


def read(server: Instance, **body: Any) -> dict[str, Any]:
    """Return the text, log probabilities, finish reason and usage of an answer, streamed or not."""
    found: dict[str, Any] = {"text": "", "logprobs": [], "finish_reason": None}
    response = httpx.post(server.url + CHAT, json=chat(TEXT, **body), timeout=60)
    assert response.status_code == 200, response.text
    if "stream" in body:
        lines = [line for line in response.text.splitlines() if line]
        assert lines.pop() == "data: [DONE]"
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
    else:
        events = [response.json()]
    for event in events:
        for choice in event["choices"]:
            part = choice.get("delta") or choice.get("message") or {}
            found["text"] += part.get("content") or ""
            found["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
            found["finish_reason"] = choice["finish_reason"] or found["finish_reason"]
        found["usage"] = event.get("usage") or found.get("usage")
    return found


@pytest.mark.parametrize("body", CASES, ids=str)
def test_answers_are_those_of_one_token_a_step(
    single: Instance, several: Instance, body: dict[str, Any]
) -> None:
    expected = read(single, **body)
    assert read(several, **body) == expected
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert read(several, **body, **streamed) == expected
    if "max_tokens" in body and "stop" not in body and expected["finish_reason"] == "length":
        assert expected["usage"]["completion_tokens"] == body["max_tokens"]


def test_a_step_counts_once_and_every_token(several: Instance) -> None:
    def tokens() -> float:
        page = httpx.get(several.url + "/metrics", timeout=10).text
        lines = [line for line in page.splitlines() if line.startswith("vgate_tokens_generated")]
        return sum(float(line.split()[-1]) for line in lines if "_created" not in line)

    with EngineProbe(several.run_dir) as engine:

        def steps() -> int:
            return sum(engine.status().stats.step_s.counts)

        before = tokens(), steps()
        read(several, ignore_eos=True, max_tokens=90)
        wait_until(lambda: steps() >= before[1] + 30, 10, "the engine told its steps")
        assert steps() == before[1] + 30
        assert tokens() == before[0] + 90


@pytest.mark.parametrize("sampling", [{}, {"seed": 1, "presence_penalty": 0.5, "temperature": 1}])
def test_a_stream_goes_on_in_the_next_engine(run_dirs: Path, sampling: dict[str, Any]) -> None:
    """It continues, or is generated again and compared: not in threes from where it stood."""
    with instance(run_dirs, 3, dry_run__step_ms=50) as server:
        text = "on and on "
        stream = Request(server.url, endless(text, stream=True, max_tokens=200, **sampling))
        stream.wait_for_text()
        os.kill(server.pid_of("engine"), signal.SIGKILL)
        stream.wait()
        assert (stream.text, stream.finish_reason, stream.done) == (text * 20, "length", True)
