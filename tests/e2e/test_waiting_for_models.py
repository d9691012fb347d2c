"""What clients see of models that are loaded when requests name them; the commands about that."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time

import anthropic
import httpx
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until

GIB = 1 << 30
NAMES = ("a", "b", "c")
MODELS = [
    {"model_id": "a", "memory_bytes": GIB},
    *({"model_id": name, "memory_bytes": GIB, "load": "on_demand"} for name in NAMES[1:]),
]
EMBED = {"model_id": "e", "task": "embed", "memory_bytes": GIB, "load": "on_demand"}
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def instance(run_dirs):
    """Four models, room for two."""
    with Instance(
        run_dirs,
        dry_run=True,
        models=[*MODELS, EMBED],
        residency__memory_bytes=2 * GIB,
        residency__min_loaded_s=0.2,
        residency__max_wait_s=2,
        server__workers=2,
        dry_run__step_ms=5,
    ) as made:
        yield made


def status_of(instance, name):
    cards = httpx.get(f"{instance.url}/v1/models", timeout=10).json()["data"]
    return next(card["status"]["value"] for card in cards if card["id"] == name)


def vgate(instance, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VGATE_")}
    return subprocess.run(
        [sys.executable, "-m", "vgate.launcher", "models", *arguments],
        cwd=ROOT,
        env={**environment, "VGATE_URL": instance.url, "VGATE_CONFIG_PATH": os.devnull},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def unload_all(instance):
    for name in (*NAMES, "e"):
        httpx.post(f"{instance.url}/admin/models/{name}/unload", timeout=10)
        wait_until(lambda n=name: status_of(instance, n) == "unloaded", TIMEOUT_S, "it is unloaded")


def test_commands_load_and_unload(instance):
    listed = vgate(instance, "list").stdout.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["MODEL", "LOAD", "STATUS"],
        ["a", "resident", "loaded"],
        *([name, "on_demand", "unloaded"] for name in "bce"),
    ]
    loaded = vgate(instance, "load", "b")
    assert (loaded.returncode, loaded.stdout.splitlines()[-1]) == (0, "b is loaded")
    again = vgate(instance, "load", "b")
    assert (again.returncode, again.stderr) == (1, "vgate: b is loaded already\n")
    unloaded = vgate(instance, "unload", "b")
    assert (unloaded.returncode, unloaded.stdout.splitlines()[-1]) == (0, "b is unloaded")
    assert vgate(instance, "load", "c", "--no-wait").returncode == 0
    wait_until(lambda: status_of(instance, "c") == "loaded", TIMEOUT_S, "it is loaded")
    unknown = vgate(instance, "unload", "d")
    assert "there is no model" in unknown.stderr
    stats = httpx.get(f"{instance.url}/stats", timeout=10).json()["models"]
    assert {model["model"]: (model["loads"], model["unloads"]) for model in stats}["b"] == (1, 1)


def test_libraries_read_streams_that_waited(instance):
    unload_all(instance)
    seconds = {"timeout": TIMEOUT_S, "max_retries": 0}
    claude = anthropic.Anthropic(base_url=instance.url, api_key="unused", **seconds)
    said = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 6}
    with claude.messages.stream(model="b", **said) as stream:
        assert stream.get_final_text() == "Hello!"
    chunks = instance.client().chat.completions.create(model="c", stream=True, **said)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello!"
    with instance.client().responses.stream(model="a", input="Hello!") as events:
        for _ in events:
            pass
        assert events.get_final_response().output_text.startswith("Hello!")
    vectors = instance.client().embeddings.create(model="e", input=["one", "two"]).data
    assert len(vectors) == 2


def test_a_client_that_leaves_loads_nothing(instance):
    unload_all(instance)
    before = len(instance.logs())
    busy = {"model": "a", "prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    url = f"{instance.url}/v1/completions"
    # That it can't generate is known without it.
    assert httpx.post(url, json={**busy, "model": "e"}, timeout=60).status_code == 400
    with contextlib.ExitStack() as streams:

        def begin(name):
            body = {**busy, "model": name}
            stream = streams.enter_context(httpx.stream("POST", url, json=body, timeout=60))
            return stream.iter_lines()

        first, second, third = map(begin, NAMES)
        for lines in (first, second):
            assert next(line for line in lines if line.startswith("data: "))
        told = next(third)
        assert told.startswith(": the model c is queued")
        assert status_of(instance, "c") == "queued"
    wait_until(lambda: status_of(instance, "c") == "unloaded", 10, "it is not wanted")
    assert "model loaded model=c" not in instance.logs()[before:]


async def ask(client, instance, name, number):
    """Ask a model in one of several ways; return whether the answer is right."""
    text = f"{name} {number}"
    body = {"model": name, "max_tokens": len(text), "stream": number % 2 == 0}
    body["messages"] = [{"role": "user", "content": text}]
    answer = await client.post(f"{instance.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        return answer.json()["choices"][0]["message"]["content"] == text
    events = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]", answer.text
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas) == text


def test_every_request_of_a_crowd_is_answered_right(instance):
    count = int(os.environ.get("VGATE_TEST_SWAPS", "60"))
    chosen = random.Random(7).choices(NAMES, k=count)

    async def crowd():
        async with httpx.AsyncClient(timeout=120) as client:
            asked = []
            for number, name in enumerate(chosen):
                asked.append(asyncio.ensure_future(ask(client, instance, name, number)))
                await asyncio.sleep(0.05)
            return await asyncio.gather(*asked)

    began = time.monotonic()
    assert all(asyncio.run(crowd()))
    assert time.monotonic() - began < 120
    problem = instance.has_problem()
    assert problem is None, problem
    assert "lost the engine" not in instance.logs()
    assert "model_wait_s=" in instance.logs()


def test_a_model_that_can_not_be_loaded_is_refused_with_the_reason(run_dirs):
    models = [{"model_id": "m", "memory_bytes": GIB, "load": "on_demand"}]
    faults = {"dry_run__fault": "load", "supervision__load_timeout_s": 1}
    faults |= {"supervision__max_restarts": 0}
    with Instance(run_dirs, dry_run=True, models=models, **faults) as made:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
        answer = httpx.post(f"{made.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        message = answer.json()["error"]["message"]
        assert message.startswith("the model `m` can't be loaded: ")
        assert made.ready()
        failed = vgate(made, "load", "m")
        assert failed.returncode == 1
        assert failed.stderr.startswith("vgate: m was not loaded: ")
