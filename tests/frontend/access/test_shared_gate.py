"""Requests of a worker whose limits are in a server that gateways share: what clients see."""

import asyncio
import json
import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from tests.frontend.gateway import chat_body, until
from tests.state_server import StateServer, find_server
from vgate.config.schema import RateLimiting, Security, State
from vgate.frontend.observe import metrics
from vgate.keys import ConfiguredKey

pytestmark = pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)

CHAT = "/v1/chat/completions"
KEYS = [
    ConfiguredKey(name="some", key="sk-some", rate_limit=3, tokens_per_minute=2000, concurrent=2),
    ConfiguredKey(name="budget", key="sk-budget", rate_limit=1000, budget_tokens=400),
    ConfiguredKey(name="plain", key="sk-plain", rate_limit=1000),
]


@pytest.fixture
def server():
    with StateServer() as started:
        yield started


@pytest.fixture
def shared(serve, server):
    def run(scenario, *, window_s=60.0, **settings):
        limiting = RateLimiting(window_seconds=window_s)
        security = Security(enabled=True, api_keys=KEYS, rate_limiting=limiting)
        settings = {"url": server.url, "timeout_ms": 2000, "lease_s": 1} | settings
        serve(scenario, security=security, state=State(**settings))

    return run


async def chat(gateway, key="some", **fields):
    body = chat_body(gateway, "x", **{"max_tokens": 4, **fields})
    return await gateway.request("POST", CHAT, body, authorization=f"Bearer sk-{key}")


async def limits_of(gateway, name):
    key = next(key for key in KEYS if key.name == name)
    request = SimpleNamespace(admission=SimpleNamespace(key=key), header=lambda _name: None)
    (row,) = await gateway.app.services.limits(request)
    return row


async def warnings_of(gateway):
    return (await gateway.request("GET", "/ready")).json["warnings"]


def test_headers_and_refusals_come_from_the_server(shared, server):
    async def scenario(gateway):
        left = []
        for _ in range(3):
            answer = await chat(gateway)
            assert answer.status == 200
            left.append(answer.headers["x-ratelimit-remaining-requests"])
        assert left == ["2", "1", "0"]
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 2000
        refused = await chat(gateway)
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert abs(int(refused.headers["x-ratelimit-reset"]) - time.time() - 60) < 30
        # Settling is on its way when the answer is.
        await until_row(gateway, "some", concurrent=0)
        row = await limits_of(gateway, "some")
        assert row["requests"] == 3
        assert await warnings_of(gateway) == []

    shared(scenario)


async def poll(condition):
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.02)


async def until_row(gateway, key, **expected):
    async def is_there():
        row = await limits_of(gateway, key)
        return all(row[name] == value for name, value in expected.items())

    await poll(is_there)


def test_what_was_reserved_is_replaced_by_what_was_used(shared):
    async def scenario(gateway):
        answer = await chat(gateway, max_tokens=200)
        await until_row(gateway, "some", tokens=answer.json["usage"]["total_tokens"])

    shared(scenario)


def test_a_budget_is_held_against_what_all_gateways_used(shared, server):
    async def scenario(gateway):
        answer = await chat(gateway, "budget", max_tokens=10)
        used = answer.json["usage"]["total_tokens"]
        await until_row(gateway, "budget", budget_used=used)
        # As another gateway would tell it.
        await tell_use(server, "another", 380)
        row = await limits_of(gateway, "budget")
        assert row["budget_used"] == used + 380
        refused = await chat(gateway, "budget", max_tokens=40)
        assert refused.status == 429
        assert refused.error["code"] == "insufficient_quota"
        assert "begins anew" in refused.error["message"]

    shared(scenario)


def test_a_gateway_tells_what_its_ledger_has_before_any_request(shared, server):
    async def scenario(gateway):
        answer = await chat(gateway, "budget", max_tokens=10)
        used = answer.json["usage"]["total_tokens"]
        await until_row(gateway, "budget", budget_used=used)
        await forget_all(server)
        await gateway.replace_worker()
        assert await poll_use(server) == used

    shared(scenario)


async def forget_all(server):
    import redis

    with redis.Redis(port=server.port) as client:
        client.flushall()


async def poll_use(server):
    import redis

    with redis.Redis(port=server.port) as client:
        async with asyncio.timeout(30):
            while not (names := client.keys("vgate:*:used-*")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return int(client.hget(names[0], ""))


async def tell_use(server, gateway, tokens):
    import redis

    with redis.Redis(port=server.port) as client:
        (name,) = client.keys("vgate:*:used-*")
        client.hset(name, gateway, tokens)
        client.hincrby(name, "", tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_server_is_away_requests_with_limits_are_refused(shared, server, stream):
    async def scenario(gateway):
        await until_served(gateway)  # the server was started just now
        server.kill()
        for _ in range(3):
            refused = await chat(gateway, "plain", stream=stream)
            assert refused.status == 503
            assert refused.error["code"] == "limits_unavailable"
            assert int(refused.headers["retry-after"]) >= 1
        (warning,) = await warnings_of(gateway)
        assert "refused" in warning
        server.start()
        await until_served(gateway)
        assert await warnings_of(gateway) == []

    shared(scenario, on_failure="refuse", window_s=1)


async def until_served(gateway):
    """Wait until the server is back, and counts that it lost are in no window any more."""

    async def is_served():
        return (await chat(gateway, "plain")).status == 200

    await poll(is_served)


def test_while_the_server_is_away_this_machine_limits(shared, server):
    async def scenario(gateway):
        assert (await chat(gateway)).status == 200
        server.pause()
        statuses = [(await chat(gateway)).status for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        (warning,) = await warnings_of(gateway)
        assert "on its own" in warning
        server.go_on()
        await until_quiet(gateway)
        statuses = [(await chat(gateway)).status for _ in range(3)]
        assert statuses == [200, 200, 429]

    shared(scenario, timeout_ms=500)


async def until_quiet(gateway):
    async def is_quiet():
        return not await warnings_of(gateway)

    await poll(is_quiet)


def test_a_client_that_leaves_while_it_is_decided_on_holds_nothing(shared, server):
    async def scenario(gateway):
        server.pause()
        body = chat_body(gateway, "x", max_tokens=4)
        _protocol, task = gateway.begin("POST", CHAT, body, authorization="Bearer sk-some")
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        server.go_on()
        await until_quiet(gateway)
        await until_row(gateway, "some", concurrent=0, requests=0)

    shared(scenario)


def test_metrics_tell_that_the_server_was_away(shared, server):
    async def scenario(gateway):
        server.kill()
        before = metrics.STATE_WITHOUT.labels("local")._value.get()
        assert (await chat(gateway)).status == 200
        assert metrics.STATE_WITHOUT.labels("local")._value.get() == before + 1
        away_s = metrics.STATE_AWAY_S.labels("local")._value.get
        began = away_s()
        await until(lambda: away_s() > began, "it is counted")

    shared(scenario)


def test_nothing_of_it_is_there_without_a_url(serve):
    async def scenario(gateway):
        assert json.loads((await gateway.request("GET", "/ready")).body)["warnings"] == []
        assert gateway.app.services.shared_problems() == []

    serve(scenario)
