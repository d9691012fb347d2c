"""What one key does, no other key can tell, neither from answers nor from counts."""

import asyncio
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, chat_body, until
from vgate.config.schema import Cache, DryRun, RateLimiting, Security
from vgate.keys import ConfiguredKey

CHAT = "/v1/chat/completions"
KEYS = [
    ConfiguredKey(name="one", key="sk-one"),
    ConfiguredKey(name="two", key="sk-two"),
    ConfiguredKey(name="red", key="sk-red", group="reds"),
    ConfiguredKey(name="rose", key="sk-rose", group="reds"),
    ConfiguredKey(name="reds", key="sk-reds"),
    ConfiguredKey(name="boss", key="sk-boss", admin=True),
]
SECURITY = Security(enabled=True, api_keys=KEYS, rate_limiting=RateLimiting(default_limit=1000))
OPEN = Security(enabled=True, api_keys=KEYS, exempt_paths=[CHAT, "/stats"])
PAIRS = [("one", "two", False), ("red", "rose", True), ("red", "reds", False), ("one", "one", True)]


async def chat(gateway: Gateway, key: str, text: str = "the same", **fields: Any):
    body = chat_body(gateway, text, **fields)
    return await gateway.request("POST", CHAT, body, authorization=f"Bearer sk-{key}")


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize(("first", "second", "shared"), PAIRS)
def test_a_stored_answer_is_the_keys_own_or_its_groups(serve, first, second, shared, isolate):
    async def scenario(gateway):
        for _ in range(2):  # the second time the body is known, too
            await chat(gateway, first)
            other = await chat(gateway, second)
            assert other.status == 200
            seen.append(other.headers["x-vgate-cache"])

    seen = []
    serve(scenario, security=SECURITY, cache=Cache(isolate_keys=isolate))
    assert seen == ["hit" if shared or not isolate else "miss", "hit"]


@pytest.mark.parametrize(("first", "second", "shared"), PAIRS)
def test_a_generation_in_flight_is_the_keys_own_or_its_groups(serve, first, second, shared):
    async def scenario(gateway):
        async def start(key):
            body = chat_body(gateway, "on and on", stream=True, ignore_eos=True, max_tokens=40)
            protocol, task = gateway.begin("POST", CHAT, body, authorization=f"Bearer sk-{key}")
            await until(lambda: len(protocol.parts) > 2, "it streams")
            return protocol, task

        streams = [await start(first), await start(second)]
        await asyncio.gather(*(task for _, task in streams))
        found = streams[1][0].headers["x-vgate-cache"]
        assert found == ("coalesced" if shared else "miss")

    dry_run = DryRun(step_ms=10, prefill_tokens_per_s=1e9)
    serve(scenario, security=SECURITY, cache=Cache(), dry_run=dry_run)


def salts_of(gateway: Gateway) -> list[str]:
    """Return a list that gets the salt of each sequence from now on."""
    seen: list[str] = []
    pool = next(iter(gateway.app.models)).engine
    submit = pool.submit

    def spy(sequence, message, *more):
        seen.append(message.options.cache_salt)
        submit(sequence, message, *more)

    pool.submit = spy
    return seen


def test_prefixes_of_prompts_are_salted_by_key_or_group(serve):
    salts: dict[tuple[str, str], str] = {}

    async def scenario(gateway):
        seen = salts_of(gateway)
        for key in ("one", "two", "red", "rose", "reds"):
            for salt in ("", "mine"):
                fields = {"cache_salt": salt} if salt else {}
                assert (await chat(gateway, key, **fields)).status == 200
                salts[key, salt] = seen.pop()

    serve(scenario, security=SECURITY)
    assert salts["red", ""] == salts["rose", ""]
    assert salts["red", "mine"] == salts["rose", "mine"]
    # Four scopes, each with two salts; none is empty or says whose it is.
    assert len(set(salts.values())) == 8
    assert all(len(salt) == 32 and set(salt) <= set("0123456789abcdef") for salt in salts.values())


def test_without_keys_a_salt_is_the_clients(serve):
    async def scenario(gateway):
        seen = salts_of(gateway)
        for fields in ({}, {"cache_salt": "mine"}):
            assert (await gateway.chat(**fields)).status == 200
        assert seen == ["", "mine"]

    serve(scenario)


def test_who_needs_no_key_shares_with_no_key(serve):
    async def scenario(gateway):
        assert (await chat(gateway, "one")).headers["x-vgate-cache"] == "miss"
        # The path is exempt, so whatever key is sent doesn't count.
        assert (await gateway.chat("the same")).headers["x-vgate-cache"] == "hit"

    serve(scenario, security=OPEN, cache=Cache())


@pytest.mark.parametrize(
    ("headers", "rows", "everything"),
    [
        ({}, [], False),
        ({"authorization": "Bearer wrong"}, [], False),
        ({"authorization": "Bearer sk-boss"}, [key.name for key in KEYS], True),
        ({"x-api-key": "sk-boss"}, [key.name for key in KEYS], True),
    ],
)
def test_an_open_path_names_keys_to_an_admins_key_only(
    serve, monkeypatch, tmp_path, headers, rows, everything
):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    async def scenario(gateway):
        stats = await gateway.request("GET", "/stats", **headers)
        assert [row["key"] for row in stats.json["limits"]] == rows
        assert ("config" in stats.json) == everything

    serve(scenario, security=OPEN)
