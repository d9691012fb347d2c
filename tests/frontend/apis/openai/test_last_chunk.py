"""The chunks of a stream: one for each step's tokens, and the last token's tells how it ended."""

import json
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, post
from vgate.config.schema import Batch, Cache, DryRun

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TEXT = "naïve é"


async def stream(gateway: Gateway, path: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the chunks of a stream with a choice; the role's are left out."""
    asked: dict[str, Any] = {"prompt": TEXT}
    if path == CHAT:
        asked = {"messages": [{"role": "user", "content": TEXT}]}
    model = gateway.config.model.served_names[0]
    answer = await post(gateway, path, {"model": model, "stream": True, **asked, **fields})
    *events, done = answer.events
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events if not event.startswith(":")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return [choice for choice in choices if "role" not in choice.get("delta", ())]


def text_of(choice: dict[str, Any]) -> str:
    text: str = choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return text


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"max_tokens": 4}, "naï", "length"),
        ({"max_tokens": 3}, "na", "length"),
        ({"max_tokens": 50}, TEXT, "stop"),
        ({"stop": ["ve"]}, "naï", "stop"),
        # Held back up to the end, since it may begin a stop string.
        ({"max_tokens": 4, "stop": ["ï!"]}, "naï", "length"),
        ({"max_tokens": 4, "n": 2}, "naï", "length"),
    ],
)
def test_the_last_text_comes_with_the_finish_reason(serve, path, fields, text, reason):
    async def scenario(gateway: Gateway) -> None:
        chunks = await stream(gateway, path, **fields)
        for index in range(fields.get("n", 1)):
            *before, last = [choice for choice in chunks if choice["index"] == index]
            assert "".join(map(text_of, [*before, last])) == text
            assert all(text_of(choice) for choice in before)
            assert [choice["finish_reason"] for choice in before] == [None] * len(before)
            assert last["finish_reason"] == reason
            # A token without text ends nothing but the answer.
            assert text_of(last) or fields.get("max_tokens") != 4 or "stop" in fields

    serve(scenario)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stop", [None, "ve", "ï!"])
@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_every_chunk_has_its_tokens(serve, path, stop, echo, cached):
    logprobs = {"logprobs": True} if path == CHAT else {"logprobs": 1, "echo": echo}

    async def scenario(gateway: Gateway) -> None:
        for _ in range(1 + cached):
            chunks = await stream(
                gateway, path, max_tokens=5, stop=stop, return_token_ids=True, **logprobs
            )
        ids = [token for choice in chunks for token in choice["token_ids"]]
        assert ids == [*TEXT.encode()][:5]
        names = [choice["logprobs"]["content" if path == CHAT else "tokens"] for choice in chunks]
        assert all(names)
        prompt = len(TEXT.encode()) if echo and path != CHAT else 0
        assert sum(map(len, names)) == prompt + len(ids)
        assert (len(chunks) == 1) == cached
        if path == COMPLETIONS:
            prompts = [choice.get("prompt_token_ids") for choice in chunks]
            assert prompts == [[*TEXT.encode()], *[None] * (len(chunks) - 1)]

    # Steps that take a while, so that each token is a step of its own.
    serve(
        scenario,
        cache=Cache(enabled=cached),
        batch=Batch(max_num_seqs=1),
        dry_run=DryRun(step_ms=10, prefill_tokens_per_s=1e9),
    )


@pytest.mark.parametrize("stop", [None, "x"])
def test_an_echo_comes_with_the_first_token(serve, stop):
    async def scenario(gateway: Gateway) -> None:
        chunks = await stream(gateway, COMPLETIONS, echo=True, max_tokens=2, n=2, stop=stop)
        for index in range(2):
            first = next(choice for choice in chunks if choice["index"] == index)
            assert first["text"].startswith(f"{TEXT}n")
        (only,) = await stream(gateway, COMPLETIONS, echo=True, max_tokens=0)
        assert (only["text"], only["finish_reason"]) == (TEXT, "length")

    serve(scenario)
