"""Keys and limits around real requests: what counts, and what a client sees of it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, Protocol, Scope, chat_body, until
from vgate.config.schema import Cache, Security, Server
from vgate.frontend.access.limiter.local import LocalGrant, LocalLimiter
from vgate.frontend.http.long_work import Turns
from vgate.frontend.observe import metrics
from vgate.keys import ConfiguredKey

CHAT = "/v1/chat/completions"
KEY = ConfiguredKey(
    name="k", key="sk", rate_limit=4, tokens_per_minute=2000, concurrent=2, min_priority=-3
)


@pytest.fixture
def limited(serve):
    def run(scenario, **sections):
        server = Server(any_model_name=False)
        security = Security(enabled=True, api_keys=[KEY])
        serve(scenario, security=security, server=server, **sections)

    return run


async def chat(gateway: Gateway, key: str = "sk", **fields: Any) -> Protocol:
    body = chat_body(gateway, "x", **{"max_tokens": 4, **fields})
    return await gateway.request("POST", CHAT, body, authorization=f"Bearer {key}")


async def used(gateway: Gateway) -> tuple[int, int, int]:
    """Return requests, tokens and concurrent requests of the key."""
    request = SimpleNamespace(admission=SimpleNamespace(key=KEY), header=lambda _name: None)
    (row,) = await gateway.app.services.limits(request)
    return row["requests"], row["tokens"], row["concurrent"]


def test_a_request_without_a_valid_key_is_not_counted(limited):
    async def scenario(gateway):
        for key in ("wrong", ""):
            answer = await chat(gateway, key)
            assert answer.status == 401
            assert "x-ratelimit-remaining" not in answer.headers
        assert (await gateway.request("GET", "/health")).status == 200
        assert await used(gateway) == (0, 0, 0)

    limited(scenario)


def test_a_key_expires(serve):
    ends = datetime.now(UTC)
    keys = [
        ConfiguredKey(name="past", key="sk-past", expires_at=ends),
        ConfiguredKey(name="now", key="sk-now", expires_at=ends + timedelta(hours=1)),
    ]

    async def scenario(gateway):
        assert (await chat(gateway, "sk-now")).status == 200
        refused = await chat(gateway, "sk-past")
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert f"`past` has expired ({ends.isoformat()})" in refused.error["message"]

    serve(scenario, security=Security(enabled=True, api_keys=keys))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_counts_with_the_tokens_that_it_used(limited, stream):
    async def scenario(gateway):
        answer = await chat(gateway, stream=stream)
        assert answer.headers["x-ratelimit-remaining"] == "3"
        reserved = 2000 - int(answer.headers["x-ratelimit-remaining-tokens"])
        requests, tokens, concurrent = await used(gateway)
        assert (requests, concurrent) == (1, 0)
        assert 0 < tokens <= reserved

    limited(scenario)


def test_a_stream_that_waits_for_its_turn_to_end_holds_and_lasts_no_longer(limited, monkeypatch):
    recorded: list[tuple[Any, tuple[float, float]]] = []

    async def scenario(gateway):
        turn = asyncio.Event()
        monkeypatch.setattr(Turns, "end", lambda _turns: turn.wait())
        monkeypatch.setattr(
            metrics,
            "record_generated",
            lambda _model, tokens, times_s, *_rest, **_more: recorded.append((tokens, times_s)),
        )
        began = time.monotonic()
        body = chat_body(gateway, "x", max_tokens=4, ignore_eos=True, stream=True)
        client, ends = gateway.begin("POST", CHAT, body, authorization="Bearer sk")
        await until(lambda: client.parts and b"[DONE]" in client.parts[-1], "the last event")
        took_s = time.monotonic() - began
        while (counts := await used(gateway))[2]:  # noqa: ASYNC110 - its limiter tells nobody
            await asyncio.sleep(0)
        await until(lambda: time.monotonic() - began > 2 * took_s + 0.01, "more time")
        assert not ends.done()
        turn.set()
        await ends
        assert await used(gateway) == counts
        ((prompt, completion), (_, decode_s)) = recorded[0]
        assert counts == (1, prompt + completion, 0)
        assert decode_s < 2 * took_s

    limited(scenario)


def test_a_stored_answer_counts_without_tokens(limited):
    async def scenario(gateway):
        await chat(gateway, temperature=0)
        before = await used(gateway)
        hit = await chat(gateway, temperature=0)
        assert hit.headers["x-vgate-cache"] == "hit"
        assert hit.headers["x-ratelimit-remaining"] == "2"
        assert await used(gateway) == (2, before[1], 0)

    limited(scenario, cache=Cache())


def test_errors_count_except_what_is_not_found(limited, monkeypatch):
    async def scenario(gateway):
        answer = await chat(gateway, temperature=-1)
        assert (answer.status, answer.headers["x-ratelimit-remaining"]) == (400, "3")
        assert (await chat(gateway, model="none")).status == 404
        assert await used(gateway) == (1, 0, 0)
        monkeypatch.setattr(type(gateway.app.models), "find", lambda *_: 1 / 0)
        assert (await chat(gateway)).status == 500
        assert await used(gateway) == (2, 0, 0)

    limited(scenario)


def test_past_the_limit_no_other_error_is_shown(limited):
    async def scenario(gateway):
        for _ in range(4):
            assert (await chat(gateway, temperature=-1)).status == 400
        refused = await chat(gateway, temperature=-1)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert int(refused.headers["retry-after"]) > 0
        assert await used(gateway) == (4, 0, 0)

    limited(scenario)


class Slow(Protocol):
    """A client whose body comes when the test says so."""

    def __init__(self, body: bytes) -> None:
        super().__init__([body])
        self.sends = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self.sends.wait()
        async for chunk in super().__aiter__():
            yield chunk


@pytest.mark.parametrize("length", [None, "1000000"])
def test_a_large_body_counts_before_it_has_come(limited, length):
    async def scenario(gateway):
        client = Slow(chat_body(gateway, "x", max_tokens=4))
        headers = {"authorization": "Bearer sk"} | ({"content-length": length} if length else {})
        task = asyncio.ensure_future(gateway.app.__rsgi__(Scope("POST", CHAT, headers), client))
        await asyncio.sleep(0.01)
        assert await used(gateway) == (1, 0, 1)
        client.sends.set()
        await asyncio.wait_for(task, 20)
        assert client.status == 200
        assert (await used(gateway))[::2] == (1, 0)

    limited(scenario)


def test_a_client_that_leaves_has_used_a_request(limited):
    async def scenario(gateway):
        headers = {"authorization": "Bearer sk"}
        _, task = gateway.begin("POST", CHAT, [b"{", None], **headers)
        await task
        assert await used(gateway) == (1, 0, 0)

    limited(scenario)


def test_whatever_ends_a_request_it_runs_no_more(limited):
    async def scenario(gateway):
        body = chat_body(gateway, "x", max_tokens=1500, ignore_eos=True)
        _, task = gateway.begin("POST", CHAT, body, authorization="Bearer sk")
        await until(lambda: gateway.engine.scheduler.running, "it runs")
        assert (await used(gateway))[2] == 1
        task.cancel()
        await asyncio.wait([task])
        requests, tokens, concurrent = await used(gateway)
        assert (requests, concurrent) == (1, 0)
        assert tokens < 1500

    limited(scenario)


async def broken(*_arguments, **_more):
    raise ConnectionResetError


def test_a_limiter_that_fails_refuses_requests(limited, monkeypatch):
    async def scenario(gateway):
        monkeypatch.setattr(LocalLimiter, "reserve", broken)
        answer = await chat(gateway)
        assert (answer.status, answer.error["code"]) == (503, "limits_unavailable")
        assert answer.headers["retry-after"] == "5"

    limited(scenario)


def test_a_limiter_that_fails_at_the_end_takes_no_answer_away(limited, monkeypatch):
    async def scenario(gateway):
        monkeypatch.setattr(LocalGrant, "settle", broken)
        answer = await chat(gateway)
        assert answer.status == 200
        assert json.loads(answer.body)["choices"]

    limited(scenario)
