"""A request that has ended is freed at once: its objects hold each other in no circle.

What does would stay until the garbage collector comes by, thousands of requests later, with its
prompt and its tokens.
"""

import asyncio
import gc
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, chat_body, post, until
from vgate.config.model import Model
from vgate.config.schema import Cache, DryRun, Server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
DEADLINE_S = 5
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
REQUESTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "chat": (CHAT, {}, 200),
    "chat with choices": (CHAT, {"n": 3, "logprobs": True, "top_logprobs": 2}, 200),
    "chat with a stop string": (CHAT, {"stop": ["ll"]}, 200),
    "chat with tools": (CHAT, {"tools": [TOOL], "tool_choice": "required"}, 200),
    "a refused chat": (CHAT, {"temperature": -1}, 400),
    "an unknown model": (CHAT, {"model": "none"}, 404),
    "a completion": (COMPLETIONS, {"prompt": ["one", "two"]}, 200),
    "a response": ("/v1/responses", {"input": "hello"}, 200),
    "a message": ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}, 200),
}


def alive() -> Counter[str]:
    """Return V-Gate's objects by type."""
    names = (f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
    return Counter(name for name in names if name.startswith("vgate."))


async def leaves_nothing(ask: Callable[[], Awaitable[None]]) -> None:
    """Check that requests leave nothing, after those that leave something once."""
    requests = 12  # more than an engine's heartbeat has of one type
    for _ in range(2):
        await ask()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(requests):
            await ask()
        deadline = time.monotonic() + DEADLINE_S
        # A response that is being stored is left for a moment.
        while left := {k: n for k, n in (alive() - before).items() if n >= requests}:
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.05)
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_leaves_nothing(serve, kind, stream):
    path, fields, status = REQUESTS[kind]

    async def scenario(gateway: Gateway) -> None:
        body = json.loads(chat_body(gateway, "Hello!"))
        if path != CHAT:
            del body["messages"]
        body |= {("max_output_tokens" if "responses" in path else "max_tokens"): 4} | fields
        body |= {"stream": stream}

        async def ask() -> None:
            assert (await post(gateway, path, body)).status == status

        await leaves_nothing(ask)

    serve(scenario, model=Model(tool_parser="hermes"), server=Server(any_model_name=False))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_stored_answers_leave_nothing(serve, stream):
    async def scenario(gateway: Gateway) -> None:
        await gateway.chat(temperature=0)

        async def ask() -> None:
            answer = await gateway.chat(temperature=0, stream=stream)
            assert answer.headers["x-vgate-cache"] == "hit"

        await leaves_nothing(ask)

    serve(scenario, cache=Cache())


def test_embeddings_leave_nothing(serve):
    async def scenario(gateway: Gateway) -> None:
        name = gateway.config.model.served_names[0]

        async def ask() -> None:
            for texts, status in ((["one", "two"], 200), ("three", 200), ([], 400)):
                body = {"model": name, "input": texts}
                assert (await post(gateway, "/v1/embeddings", body)).status == status

        await leaves_nothing(ask)

    serve(scenario, model=Model(task="embed"))


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL]}], ids=["text", "tools"])
def test_a_client_that_leaves_leaves_nothing(serve, fields):
    async def scenario(gateway: Gateway) -> None:
        async def ask() -> None:
            protocol, task = gateway.begin_chat(
                stream=True, max_tokens=2000, ignore_eos=True, **fields
            )
            await until(lambda: protocol.parts, "it runs")
            (await until(lambda: protocol.disconnected, "it is watched")).set_result(None)
            await task

        await leaves_nothing(ask)

    model = Model(tool_parser="hermes")
    serve(scenario, model=model, dry_run=DryRun(step_ms=5, prefill_tokens_per_s=1e9))
