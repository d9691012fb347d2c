"""What requests add to the ledger, and budgets around real requests."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, Protocol, chat_body, until
from vgate.config.model import Model
from vgate.config.schema import Cache, DryRun, Security, Server
from vgate.key_file import KeyFile
from vgate.keys import ApiKey, ConfiguredKey
from vgate.usage import Used

CHAT = "/v1/chat/completions"
KEYS = [
    ConfiguredKey(name="k", key="sk-k", rate_limit=3),
    ConfiguredKey(name="boss", key="sk-boss", admin=True),
    ConfiguredKey(name="poor", key="sk-poor", budget_tokens=200, budget_period="day"),
]
SECURITY = Security(enabled=True, api_keys=KEYS)


@pytest.fixture
def metered(serve):
    def run(scenario, **sections):
        serve(scenario, **{"security": SECURITY, **sections})

    return run


def begin(gateway: Gateway, key: str = "k", path: str = CHAT, **fields: Any):
    body = chat_body(gateway, fields.pop("text", "x"), **{"max_tokens": 4, **fields})
    return gateway.begin("POST", path, body, authorization=f"Bearer sk-{key}")


async def chat(gateway: Gateway, key: str = "k", **fields: Any) -> Protocol:
    protocol, task = begin(gateway, key, **fields)
    await asyncio.wait_for(task, 20)
    return protocol


async def usage(gateway: Gateway, key: str = "k", query: str = "") -> list[dict[str, Any]]:
    answer = await gateway.request("GET", f"/v1/usage{query}", authorization=f"Bearer sk-{key}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["data"]
    return found


def used_by(rows: list[dict[str, Any]]) -> Used:
    return sum(
        (Used(*(row[field] for field in Used.__struct_fields__)) for row in rows), start=Used()
    )


def told(answer: Protocol) -> Used:
    """Return what an answer tells its client."""
    if answer.headers["content-type"].startswith("application/json"):
        tokens = answer.json["usage"]
    else:
        tokens = json.loads(answer.events[-2])["usage"]
    return Used(1, tokens["prompt_tokens"], 0, tokens["completion_tokens"])


def test_the_ledger_has_what_answers_tell(metered):
    async def scenario(gateway):
        plain = told(await chat(gateway))
        streamed = await chat(gateway, stream=True, stream_options={"include_usage": True})
        assert plain.completion_tokens
        assert used_by(await usage(gateway)) == plain + told(streamed)
        (row,) = await usage(gateway)
        assert row["key"] == "k"
        assert row["model"] == gateway.config.model.served_names[0]
        assert used_by(await usage(gateway, "poor")) == Used()
        assert used_by(await usage(gateway, "boss")) == used_by(await usage(gateway))

    metered(scenario)


def test_a_stream_is_counted_before_its_end_is_sent(metered):
    async def scenario(gateway):
        meter = gateway.app._access.meter
        seen = []
        settle = meter.settle

        def spy(*arguments):
            seen.append(b"[DONE]" in protocol.body)
            settle(*arguments)

        meter.settle = spy
        protocol, task = begin(gateway, stream=True)
        await asyncio.wait_for(task, 20)
        assert b"[DONE]" in protocol.body
        assert seen[0] is False
        assert used_by(await usage(gateway)).requests == 1

    metered(scenario)


def test_what_counts_as_a_request_and_as_an_error(metered):
    async def scenario(gateway):
        async def after(key="k", **fields):
            before = used_by(await usage(gateway))
            answer = await chat(gateway, key, **fields)
            now = used_by(await usage(gateway))
            return answer.status, now.requests - before.requests, now.errors - before.errors

        assert await after(temperature=-1) == (400, 1, 1)
        assert await after(model="none") == (404, 0, 0)
        assert await after("wrong") == (401, 0, 0)
        assert await after() == (200, 1, 0)
        assert await after() == (200, 1, 0)
        assert await after() == (429, 0, 0)
        await gateway.request("GET", "/v1/models", authorization="Bearer sk-boss")
        assert {row["key"] for row in await usage(gateway, "boss")} == {"k"}

    metered(scenario, server=Server(any_model_name=False))


def test_a_list_of_models_does_not_count(metered):
    async def scenario(gateway):
        async def models(path=""):
            answer = await gateway.request("GET", f"/v1/models{path}", authorization="Bearer sk-k")
            assert answer.status == 200
            assert not [name for name in answer.headers if "ratelimit" in name]
            return answer.json["data"][0]["id"] if not path else answer.json["id"]

        for _ in range(4):  # one more than its limit
            name = await models()
            assert await models(f"/{name}") == name
        assert [(await chat(gateway)).status for _ in range(4)] == [200, 200, 200, 429]
        await models()
        assert used_by(await usage(gateway)).requests == 3

    metered(scenario)


def test_a_stored_answer_is_a_request_without_tokens(metered):
    async def scenario(gateway):
        first = told(await chat(gateway, temperature=0))
        assert (await chat(gateway, temperature=0)).headers["x-vgate-cache"] == "hit"
        assert used_by(await usage(gateway)) == first + Used(1)

    metered(scenario, cache=Cache())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_has_used_what_was_generated(metered, stream):
    async def scenario(gateway):
        protocol, task = begin(gateway, stream=stream, max_tokens=1500, ignore_eos=True)
        await until(lambda: gateway.engine.scheduler.running, "it runs")
        if stream:
            await until(lambda: len(protocol.parts) > 3, "it streams")
        else:
            await until(lambda: protocol.disconnected, "it is watched")
        protocol.disconnected.set_result(None)
        await asyncio.wait_for(task, 20)
        used = used_by(await usage(gateway))
        assert (used.requests, used.errors) == (1, 0)
        assert used.prompt_tokens > 0
        assert (3 if stream else 0) <= used.completion_tokens < 1500

    metered(scenario, dry_run=DryRun(step_ms=5, prefill_tokens_per_s=1e9))


def test_a_stream_that_fails_is_an_error(metered):
    async def scenario(gateway):
        protocol, task = begin(gateway, stream=True, max_tokens=1500, ignore_eos=True)
        await until(lambda: len(protocol.parts) > 3, "it streams")
        gateway.app.draining.end_requests()
        await asyncio.wait_for(task, 20)
        used = used_by(await usage(gateway))
        assert (used.requests, used.errors) == (1, 1)
        assert used.completion_tokens >= 3

    metered(scenario, dry_run=DryRun(step_ms=5, prefill_tokens_per_s=1e9))


def test_without_keys_all_is_counted_together(serve):
    async def scenario(gateway):
        answer = await gateway.chat("x", max_tokens=4)
        (row,) = (await gateway.request("GET", "/v1/usage")).json["data"]
        assert (row["key"], used_by([row])) == ("", told(answer))

    serve(scenario)


def test_usage_is_grouped_and_filtered(metered):
    async def scenario(gateway):
        await chat(gateway)
        await chat(gateway, "poor")
        rows = await usage(gateway, "boss", "?by=day")
        assert [(row["key"], row["model"], row["requests"]) for row in rows] == [(None, None, 2)]
        day = rows[0]["day"]
        assert await usage(gateway, "boss", f"?by=day&since={day}&until={day}") == rows
        assert await usage(gateway, "boss", "?until=2020-01-01") == []
        assert [row["key"] for row in await usage(gateway, "boss", "?by=key&key=poor")] == ["poor"]
        assert [row["key"] for row in await usage(gateway, "k", "?by=key&key=poor")] == ["k"]
        for query, param in (("by=keys", "by"), ("since=today", "since"), ("from=1", "from")):
            path = f"/v1/usage?{query}"
            refused = await gateway.request("GET", path, authorization="Bearer sk-k")
            assert (refused.status, refused.error["param"]) == (400, param)
        for _ in range(5):  # more than its limit, which this doesn't count towards
            await usage(gateway)

    metered(scenario)


def test_a_budget_is_not_exceeded(metered):
    async def scenario(gateway):
        while (answer := await chat(gateway, "poor", max_tokens=30)).status == 200:
            pass
        used = used_by(await usage(gateway, "poor"))
        assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
        assert answer.error["type"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
        message = answer.error["message"]
        assert "(200 tokens per day)" in message
        assert f"has {200 - used.tokens} left" in message
        assert "begins anew at 2" in message
        assert 0 < 200 - used.tokens < 30 + used.prompt_tokens // used.requests
        stats = await gateway.request("GET", "/stats", authorization="Bearer sk-poor")
        (row,) = stats.json["limits"]
        budget = {name: value for name, value in row.items() if "budget" in name}
        assert budget == {
            "budget_used": used.tokens,
            "budget_tokens": 200,
            "budget_period": "day",
        }
        keys = await gateway.request("GET", "/admin/keys", authorization="Bearer sk-boss")
        (row,) = [row for row in keys.json["data"] if row["name"] == "poor"]
        assert row["used"]["budget_tokens"] == used.tokens
        # What it has left is enough for a shorter answer.
        assert (await chat(gateway, "poor", max_tokens=1)).status == 200
        assert (await gateway.request("GET", "/v1/models", authorization="Bearer sk-poor")).status

    metered(scenario)


def test_requests_at_once_do_not_exceed_it_either(metered):
    async def scenario(gateway):
        tasks = [begin(gateway, "poor", text=str(n), max_tokens=30) for n in range(12)]
        await asyncio.gather(*(task for _, task in tasks))
        statuses = [protocol.status for protocol, _ in tasks]
        assert {*statuses} == {200, 429}
        assert used_by(await usage(gateway, "poor")).tokens <= 200
        # Those that were refused gave back what they had taken; this one counts, too.
        stats = await gateway.request("GET", "/stats", authorization="Bearer sk-poor")
        (row,) = stats.json["limits"]
        assert row["budget_used"] == used_by(await usage(gateway, "poor")).tokens
        assert (row["requests"], row["concurrent"]) == (statuses.count(200) + 1, 1)

    metered(scenario, dry_run=DryRun(step_ms=2, prefill_tokens_per_s=1e9))


def test_a_budget_changes_with_the_key_file(serve, tmp_path):
    file = KeyFile(tmp_path / "keys.jsonl")
    secret = file.add(ApiKey("late", "0" * 64)).removeprefix("sk-")

    async def scenario(gateway):
        async def ask():
            body = chat_body(gateway, "x", max_tokens=4)
            return await gateway.request("POST", CHAT, body, authorization=f"Bearer {secret}")

        used = told(await ask()).tokens
        file.change("late", {"budget_tokens": 2 * used - 1})
        budgets = gateway.app._access.meter._of
        await until(lambda: budgets is not gateway.app._access.meter._of, "it is reread")
        refused = await ask()
        assert refused.status == 429
        assert f"has {used - 1} left" in refused.error["message"]

    security = Security(enabled=True, key_file=str(tmp_path / "keys.jsonl"))
    serve(scenario, security=security)


def test_a_budget_that_can_not_be_checked_lets_nothing_through(metered):
    async def scenario(gateway):
        (Path(gateway.config.server.state_dir) / "usage.db").mkdir(parents=True)
        refused = await chat(gateway, "poor")
        assert (refused.status, refused.error["code"]) == (503, "limits_unavailable")
        stats = await gateway.request("GET", "/stats", authorization="Bearer sk-poor")
        (row,) = stats.json["limits"]
        assert (row["key"], row["budget_used"], row["budget_tokens"]) == ("poor", None, 200)
        keys = await gateway.request("GET", "/admin/keys", authorization="Bearer sk-boss")
        assert [key["used"]["budget_tokens"] for key in keys.json["data"]] == [0, 0, None]
        used = await gateway.request("GET", "/v1/usage", authorization="Bearer sk-poor")
        assert (used.status, used.error["code"]) == (503, "ledger_unavailable")
        assert gateway.config.server.state_dir not in used.error["message"]
        assert (await chat(gateway)).status == 200

    metered(scenario)


def test_ready_says_that_use_is_in_memory(metered, monkeypatch, tmp_path):
    async def scenario(gateway):
        await chat(gateway)
        (warning,) = (await gateway.request("GET", "/ready")).json["warnings"]
        assert warning.startswith("use is counted in memory only: ")
        taken.unlink()
        await until(lambda: not gateway.app.services.ledger.problems(), "it is written")
        assert used_by(await usage(gateway)).requests == 1

    taken = tmp_path / "state"
    taken.write_text("a file in the place of the directory")
    metered(scenario, server=Server(state_dir=str(taken)))


def test_embeddings_count_their_tokens(serve):
    async def scenario(gateway):
        body = json.dumps({"model": "e", "input": ["one", "two"]}).encode()
        answer = await gateway.request("POST", "/v1/embeddings", body)
        assert answer.status == 200, answer.body
        (row,) = (await gateway.request("GET", "/v1/usage")).json["data"]
        assert (row["model"], row["requests"]) == ("e", 1)
        assert row["prompt_tokens"] == answer.json["usage"]["prompt_tokens"]

    serve(scenario, model=Model(model_id="e", task="embed"))
