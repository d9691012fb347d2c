"""The running requests, and how an admin ends one."""

import asyncio
import json

from msgspec import structs

from tests.frontend.gateway import until
from vgate.config.schema import Batch, Cache, DryRun, Security, Server
from vgate.keys import ConfiguredKey

SLOW = DryRun(step_ms=5, prefill_tokens_per_s=1e9)
ONE = Server(workers=1)
ENDLESS = {"max_tokens": 1500, "ignore_eos": True}
KEYS = Security(
    enabled=True,
    api_keys=[
        ConfiguredKey(name="alice", key="a" * 20),
        ConfiguredKey(name="root", key="r" * 20, admin=True),
    ],
)
ROOT = {"authorization": "Bearer " + "r" * 20}


async def listed(gateway, **headers):
    answer = await gateway.request("GET", "/admin/requests", **headers)
    assert answer.status == 200, answer.json
    return answer.json


async def cancel(gateway, request_id, **headers):
    return await gateway.request("POST", f"/admin/requests/{request_id}/cancel", **headers)


async def begun(gateway, **fields):
    """Start a stream and wait for its first text."""
    exchange, task = gateway.begin_chat(stream=True, **ENDLESS, **fields)
    await until(lambda: len(exchange.parts) > 3, "some text")
    return exchange, task


def test_what_runs_and_what_waits(serve):
    async def scenario(gateway):
        assert await listed(gateway) == {
            "object": "list",
            "data": [],
            "has_more": False,
            "total": 0,
            "silent_workers": [],
        }
        stream, first = await begun(gateway)
        _, second = gateway.begin_chat("collected", **ENDLESS)
        await until(lambda: gateway.engine.scheduler.waiting == 1, "the second waits")
        found = await listed(gateway)
        assert (found["total"], len(found["data"])) == (2, 2)
        running, waiting = found["data"]
        assert running["id"] == stream.headers["x-request-id"]
        assert running["model"] == running["served_model"] == gateway.config.model.name
        assert running["api"] == "/v1/chat/completions"
        assert (running["state"], running["stream"]) == ("running", True)
        assert (running["client"], running["worker"]) == ("127.0.0.1", "frontend-1")
        assert running["age_s"] >= running["ttft_s"] > 0
        assert running["completion_tokens"] > 0 < running["prompt_tokens"]
        assert (waiting["state"], waiting["stream"]) == ("waiting", False)
        assert (waiting["ttft_s"], waiting["completion_tokens"]) == (None, 0)
        assert (await cancel(gateway, running["id"])).status == 200
        # The engine keeps what it has of an answer that isn't streamed, and says how much.
        await until(lambda: gateway.engine.scheduler.waiting == 0, "the second runs")
        generated = 0
        while generated < 5:
            generated = (await listed(gateway))["data"][0]["completion_tokens"]
        assert (await cancel(gateway, waiting["id"])).status == 200
        await asyncio.gather(first, second)
        assert (await listed(gateway))["data"] == []

    serve(scenario, dry_run=SLOW, batch=Batch(max_num_seqs=1), server=ONE)


def test_the_name_that_was_asked_for(serve):
    async def scenario(gateway):
        exchange, task = gateway.begin_chat(stream=True, model="gpt-4 " * 50, **ENDLESS)
        await until(lambda: exchange.parts, "the first text")
        (row,) = (await listed(gateway))["data"]
        assert row["model"] == ("gpt-4 " * 50)[:128]
        assert row["served_model"] == gateway.config.model.name
        await cancel(gateway, row["id"])
        await task

    serve(scenario, dry_run=SLOW, server=Server(workers=1, any_model_name=True))


def test_a_cancelled_stream_ends_with_an_error_and_frees_the_engine(serve):
    async def scenario(gateway):
        exchange, task = await begun(gateway)
        answer = await cancel(gateway, exchange.headers["x-request-id"])
        request_id = exchange.headers["x-request-id"]
        assert answer.json == {"id": request_id, "object": "request", "cancelled": True}
        await task
        assert exchange.events[-1].startswith("{")
        assert json.loads(exchange.events[-1])["error"]["code"] == "cancelled_by_admin"
        assert "[DONE]" not in exchange.events
        await until(lambda: gateway.engine.idle, "the engine is free")
        again = await cancel(gateway, exchange.headers["x-request-id"])
        assert (again.status, again.error["code"]) == (404, "not_found")

    serve(scenario, dry_run=SLOW, server=ONE)


def test_a_request_that_is_not_streamed_gets_the_error(serve):
    async def scenario(gateway):
        body = {"model": gateway.config.model.name, "messages": [], **ENDLESS}
        body["messages"] = [{"role": "user", "content": "hi"}]
        for path in ("/v1/chat/completions", "/v1/messages"):
            exchange, task = gateway.begin(
                "POST", path, json.dumps(body).encode(), x_request_id="mine"
            )
            await until(lambda: not gateway.engine.idle, "it runs")
            assert (await cancel(gateway, "mine")).status == 200
            await task
            assert exchange.status == 403
            assert "admin" in exchange.error["message"]
            await until(lambda: gateway.engine.idle, "the engine is free")

    serve(scenario, dry_run=SLOW, server=ONE)


def test_only_one_of_two_that_share_a_sequence_ends(serve):
    async def scenario(gateway):
        fields = {"stream": True, "max_tokens": 300, "ignore_eos": True}
        first, ends_first = gateway.begin_chat(**fields)
        await until(lambda: len(first.parts) > 3, "some text")
        second, ends_second = gateway.begin_chat(**fields)
        await until(lambda: second.parts, "it has joined")
        assert second.headers["x-vgate-cache"] == "coalesced"
        await cancel(gateway, first.headers["x-request-id"])
        await ends_first
        assert "[DONE]" not in first.events
        assert len((await listed(gateway))["data"]) == 1
        await ends_second
        assert second.events[-1] == "[DONE]"
        assert gateway.engine.idle

    serve(scenario, dry_run=SLOW, server=ONE, cache=Cache())


def test_requests_with_one_id_all_end(serve):
    async def scenario(gateway):
        begun = [
            gateway.begin(
                "POST",
                "/v1/completions",
                json.dumps({"prompt": "x", "model": "any", **ENDLESS}).encode(),
                x_request_id="a/b?",
            )
            for _ in range(2)
        ]
        await until(lambda: len(gateway.engine.scheduler.running) == 2, "both run")
        assert (await cancel(gateway, "a%2Fb")).status == 404
        exchange, task = gateway.begin("POST", "/admin/requests/x/cancel")
        await task
        assert exchange.status == 404
        assert (await gateway.request("POST", "/admin/requests/a/b")).status == 404
        assert (await cancel(gateway, "a/b")).status == 404
        found = (await listed(gateway))["data"]
        assert [row["id"] for row in found] == ["a/b?"] * 2
        count = await gateway.app.services.workers.cancel("a/b?", "the test")
        assert count.count == 2
        for exchange, task in begun:
            await task
            assert exchange.status == 403

    serve(scenario, dry_run=SLOW, server=ONE)


def test_who_may(serve):
    async def scenario(gateway):
        alice = {"authorization": "Bearer " + "a" * 20}
        for headers, status, says in (({}, 401, "key"), (alice, 403, "admin: true")):
            for method, path in (("GET", "/admin/requests"), ("POST", "/admin/requests/x/cancel")):
                answer = await gateway.request(method, path, **headers)
                assert answer.status == status
                assert says in answer.error["message"]
        _, task = gateway.begin(
            "POST",
            "/v1/completions",
            json.dumps({"prompt": "x", "model": "any", **ENDLESS}).encode(),
            x_request_id="hers",
            **alice,
        )
        await until(lambda: not gateway.engine.idle, "it runs")
        (row,) = (await listed(gateway, **ROOT))["data"]
        assert row["key"] == "alice"
        assert (await cancel(gateway, "hers", **ROOT)).status == 200
        await task

    serve(scenario, dry_run=SLOW, server=ONE, security=KEYS)


def test_nobody_is_an_admin_of_a_server_that_is_open_to_others(serve):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/admin/requests")
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert "security.enabled" in answer.error["message"]

    serve(scenario, engine=False, server=Server(host="0.0.0.0", workers=1))


def test_a_proxy_on_this_machine_brings_everybody(serve):
    async def scenario(gateway):
        for headers in ({"x-forwarded-for": "203.0.113.9"}, {"forwarded": "for=203.0.113.9"}):
            answer = await gateway.request("GET", "/admin/requests", **headers)
            assert (answer.status, answer.error["code"]) == (403, "forbidden")
            assert "security.enabled" in answer.error["message"]

    serve(scenario, engine=False, server=ONE)


def test_large_bodies_are_refused_unread(serve, tmp_path):
    async def scenario(gateway):
        model = gateway.config.model.name
        paths = ["keys", "hosts", "engines/0/drain", f"models/{model}/load"]
        for path in (f"/admin/{name}" for name in paths):
            answer = await gateway.request("POST", path, b"[" * 70_000, **ROOT)
            assert (answer.status, answer.error["code"]) == (413, "payload_too_large"), path

    key_file = tmp_path / "keys"
    key_file.touch(0o600)
    serve(scenario, security=structs.replace(KEYS, key_file=str(key_file)))
