"""Aliases through every API: what they add and fix, who may use them, and what is shared."""

import itertools
import json
import random
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, Protocol, post
from vgate.config.aliases import Alias, Parameters
from vgate.config.model import AdditionalModel, LoraAdapter, Model
from vgate.config.schema import Cache, Security, Server
from vgate.frontend.observe import metrics
from vgate.keys import ConfiguredKey

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
    "{% if enable_thinking is defined %}[thinks: {{ enable_thinking }}]{% endif %}"
    "{% if reasoning_effort is defined %}[effort: {{ reasoning_effort }}]{% endif %}"
)
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HI = [{"role": "user", "content": "Hi"}]
ALIASES = {
    "fast": Alias(
        model="b",
        defaults=Parameters(temperature=0.5, reasoning_effort="none"),
        locked=Parameters(max_tokens=4),
    ),
    "deep": Alias(
        model="base",
        locked=Parameters(top_p=0.5, reasoning_effort="high"),
        system_prompt="Think.",
    ),
    "short": Alias(model="embedder", defaults=Parameters(dimensions=8)),
    "fixed": Alias(model="embedder", locked=Parameters(dimensions=8)),
    "query": Alias(model="sql", defaults=Parameters(max_tokens=3)),
}


@pytest.fixture
def sections(tmp_path) -> dict[str, Any]:
    path = tmp_path / "template.jinja"
    path.write_text(TEMPLATE)
    model = Model(
        model_id="m",
        served_model_name=["base", "b"],
        chat_template=str(path),
        lora_adapters=[LoraAdapter(name="sql", path="p")],
    )
    embedder = AdditionalModel(model_id="embedder", task="embed")
    return {"model": model, "additional_models": [embedder], "aliases": ALIASES}


@pytest.fixture
def served(serve, sections):
    """Run a scenario on a gateway with the main model's engine."""
    alone = {name: each for name, each in ALIASES.items() if each.model != "embedder"}

    def run(scenario, **more):
        serve(scenario, **{**sections, "additional_models": [], "aliases": alone, **more})

    return run


async def prompt_of(gateway: Gateway, model: str, **fields: Any) -> tuple[str, str | None]:
    """Return a chat request's prompt as text, and the fields that it was told to be ignored."""
    answer = await post(gateway, "/tokenize", {"model": model, "messages": HI, **fields})
    assert answer.status == 200, answer.body
    text = await post(gateway, "/detokenize", {"tokens": answer.json["tokens"]})
    return text.json["prompt"], answer.headers.get("x-vgate-ignored")


def test_what_an_alias_does_to_the_prompt(served):
    system = {"role": "system", "content": "Mine."}
    off, on = ({"chat_template_kwargs": {"enable_thinking": each}} for each in (False, True))
    none = "[thinks: False][effort: none]"
    high = "[thinks: True][effort: high]"
    cases = [
        ("base", {}, "[user: Hi]", None),
        ("fast", {}, f"[user: Hi]{none}", None),
        ("fast", {"reasoning_effort": "high"}, f"[user: Hi]{high}", None),
        ("fast", on, "[user: Hi][thinks: True]", None),
        ("deep", {}, f"[system: Think.][user: Hi]{high}", None),
        ("deep", {"messages": [system, *HI]}, "[system: Think.][system: Mine.][user: Hi]", None),
        ("deep", {"reasoning_effort": "none"}, high, "reasoning_effort"),
        ("deep", {"reasoning_effort": "high"}, high, None),
        ("deep", off, high, "chat_template_kwargs.enable_thinking"),
        ("deep", on, high, None),
    ]

    async def scenario(gateway):
        for model, fields, expected, ignored in cases:
            prompt, told = await prompt_of(gateway, model, **fields)
            assert expected in prompt, (model, fields)
            assert told == ignored, (model, fields)
            if "high" not in expected:
                assert prompt.replace("[thinks", "\0").count("[") <= expected.count("[") + 2

    served(scenario)


def test_locked_and_default_parameters(served):
    async def ask(gateway, model, **fields) -> tuple[Any, str | None]:
        body = {"model": model, "input": "Hi", **fields}
        answer = await post(gateway, "/v1/responses", body)
        assert answer.status == 200, answer.body
        return answer.json, answer.headers.get("x-vgate-ignored")

    async def scenario(gateway):
        plain, told = await ask(gateway, "fast")
        assert (plain["temperature"], plain["top_p"], told) == (0.5, 1, None)
        assert plain["usage"]["output_tokens"] == 4
        asked, told = await ask(gateway, "fast", temperature=1.5, max_output_tokens=9)
        assert (asked["temperature"], told) == (1.5, "max_tokens")
        assert asked["usage"]["output_tokens"] == 4
        # Fewer tokens than the lock allows are what the client wants.
        less, told = await ask(gateway, "fast", max_output_tokens=2)
        assert (less["usage"]["output_tokens"], told) == (2, None)
        deep, told = await ask(gateway, "deep", top_p=0.9, max_output_tokens=2)
        assert (deep["top_p"], told) == (0.5, "top_p")
        least = await post(
            gateway, CHAT, {"model": "fast", "messages": HI, "min_tokens": 8, "max_tokens": 8}
        )
        assert least.status == 200
        assert least.json["usage"]["completion_tokens"] == 4
        assert set(least.headers["x-vgate-ignored"].split(", ")) == {"min_tokens", "max_tokens"}

    served(scenario)


def test_every_api_answers_in_the_alias_name(served):
    async def scenario(gateway):
        before = metrics.GENERATED_TOKENS.labels("fast")._value.get()
        answers = [
            await post(gateway, CHAT, {"model": "fast", "messages": HI}),
            await post(gateway, "/v1/completions", {"model": "fast", "prompt": "Hello"}),
            await post(gateway, "/v1/responses", {"model": "fast", "input": "Hi"}),
            await post(gateway, MESSAGES, {"model": "fast", "messages": HI, "max_tokens": 9}),
        ]
        assert {(answer.status, answer.json["model"]) for answer in answers} == {(200, "fast")}
        assert metrics.GENERATED_TOKENS.labels("fast")._value.get() == before + 16
        stream = await post(gateway, CHAT, {"model": "fast", "messages": HI, "stream": True})
        chunks = [json.loads(event) for event in stream.events[:-1]]
        assert {chunk["model"] for chunk in chunks} == {"fast"}
        other = await post(gateway, CHAT, {"model": "b", "messages": HI, "max_tokens": 1})
        assert other.json["model"] == "base"

    served(scenario)


def test_apis_without_generation(served):
    async def scenario(gateway):
        body = {"messages": HI, "model": "base"}
        counts = [
            (await post(gateway, f"{MESSAGES}/count_tokens", {**body, "model": name})).json
            for name in ("base", "deep")
        ]
        assert counts[0]["input_tokens"] < counts[1]["input_tokens"]
        ids = (await post(gateway, "/tokenize", {"model": "deep", "prompt": "Hi"})).json["tokens"]
        text = await post(gateway, "/detokenize", {"model": "deep", "tokens": ids})
        assert text.json["prompt"] == "Hi"
        # A prompt has no place for the system's words, and must not escape them.
        refused = await post(gateway, "/v1/completions", {"model": "deep", "prompt": "Hi"})
        assert (refused.status, refused.error["param"]) == (400, "model")
        assert "use /v1/chat/completions" in refused.error["message"]
        refused = await post(gateway, "/v1/embeddings", {"model": "fast", "input": "Hi"})
        assert refused.status == 400
        assert "the model `fast` does not embed text" in refused.error["message"]

    served(scenario)


def test_embeddings(serve):
    async def scenario(gateway):
        for model, asked, length, told in (
            ("short", None, 8, None),
            ("short", 16, 16, None),
            ("fixed", 16, 8, "dimensions"),
            ("fixed", 8, 8, None),
        ):
            body = {"model": model, "input": "Hi", "dimensions": asked}
            answer = await post(gateway, "/v1/embeddings", body)
            assert (answer.status, answer.json["model"]) == (200, model), answer.body
            assert len(answer.json["data"][0]["embedding"]) == length
            assert answer.headers.get("x-vgate-ignored") == told

    aliases = {name: each for name, each in ALIASES.items() if each.model == "embedder"}
    serve(scenario, model=Model(model_id="embedder", task="embed"), aliases=aliases)


def test_an_adapters_alias(served):
    async def scenario(gateway):
        models = gateway.app.models
        assert models.adapter("query") == models.adapter("sql") == "sql"
        assert models.adapter("fast") == models.adapter("base") == ""
        answer = await post(gateway, CHAT, {"model": "query", "messages": HI})
        assert answer.json["model"] == "query"
        assert answer.json["usage"]["completion_tokens"] == 3

    served(scenario)


KEYS = [
    ConfiguredKey(name="all", key="sk-all"),
    ConfiguredKey(name="alone", key="sk-alone", models=["fast"]),
    ConfiguredKey(name="base", key="sk-base", models=["base"]),
    ConfiguredKey(name="lora", key="sk-lora", models=["sql"]),
    ConfiguredKey(name="alice", key="sk-alice"),
    ConfiguredKey(name="bob", key="sk-bob", group="team-a"),
    ConfiguredKey(name="carol", key="sk-carol", group="team-a", models=["sql", "private"]),
]
NAMES = {
    "all": ["base", "b", "sql", "fast", "deep", "query"],
    "alone": ["fast"],
    "base": ["base", "fast", "deep"],
    "lora": ["sql", "query"],
    "alice": ["base", "b", "sql", "fast", "deep", "query", "private"],
    "bob": ["base", "b", "sql", "fast", "deep", "query", "private"],
    "carol": ["sql", "query", "private"],
}
PRIVATE = Alias(model="base", keys=["alice", "team-a"], system_prompt="Secret.")


@pytest.mark.parametrize("any_name", [None, True, False])
def test_who_sees_and_uses_an_alias(served, any_name):
    async def scenario(gateway):
        for key, names in NAMES.items():
            bearer = {"authorization": f"Bearer sk-{key}"}
            cards = (await gateway.request("GET", "/v1/models", **bearer)).json["data"]
            assert sorted(card["id"] for card in cards) == sorted(names), key
            parents = {"fast": "b", "deep": "base", "query": "sql", "private": "base"}
            for card in cards:
                own = {"sql": "base", **parents}.get(card["id"])
                told = ("m", own) if own is None or own in names else (card["id"], None)
                assert (card["root"], card["parent"]) == told
            for name in NAMES["alice"]:
                body = {"model": name, "messages": HI, "max_tokens": 1}
                answer = await post(gateway, CHAT, body, **bearer)
                assert answer.status == (200 if name in names else 404), (key, name)
                if answer.status == 404:
                    assert answer.error["code"] == "model_not_found"
                    listed = answer.error["message"].partition("served: ")[2].partition(" (")[0]
                    assert sorted(listed.split(", ")) == sorted(names)

    served(
        scenario,
        aliases={**{n: a for n, a in ALIASES.items() if a.model != "embedder"}, "private": PRIVATE},
        security=Security(enabled=True, api_keys=KEYS),
        server=Server(any_model_name=any_name),
    )


def test_an_answer_that_is_remembered_is_for_those_who_may_use_the_alias(served):
    async def scenario(gateway):
        body = {"model": "private", "messages": HI}
        for key, status in (("a", 200), ("a", 200), ("b", 404), ("a", 200)):
            answer = await post(gateway, CHAT, body, authorization=f"Bearer sk-{key}")
            assert answer.status == status

    keys = [ConfiguredKey(name=name, key=f"sk-{name}", group="g") for name in ("a", "b")]
    served(
        scenario,
        aliases={"private": Alias(model="base", keys=["a"])},
        security=Security(enabled=True, api_keys=keys),
        cache=Cache(),
    )


def _seen(answer: Protocol) -> Any:
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    return answer.json["usage"]["prompt_tokens"], choice["message"], choice["finish_reason"]


def test_the_cache_mixes_no_aliases_and_shares_what_is_equal(served):
    """Each answer with the cache is the one without, whatever was asked before."""
    aliases = {
        "a1": Alias(model="base", locked=Parameters(max_tokens=6)),
        "a2": Alias(model="base", defaults=Parameters(max_tokens=6, reasoning_effort="none")),
        "a3": Alias(model="base", system_prompt="One.", defaults=Parameters(max_tokens=30)),
        "a4": Alias(model="base", system_prompt="Two.", locked=Parameters(max_tokens=30)),
        "a5": Alias(model="sql", locked=Parameters(max_tokens=6)),
    }
    fields = [{}, {"max_tokens": 5}, {"max_tokens": 6}, {"reasoning_effort": "none"}]
    requests = [
        {"model": name, "messages": HI, **more}
        for name, more in itertools.product([*aliases, "base"], fields)
    ]

    async def scenario(gateway):
        fresh = [
            _seen(await post(gateway, CHAT, each, cache_control="no-store")) for each in requests
        ]
        order = [*range(len(requests))] * 2
        random.Random(5).shuffle(order)
        outcomes: dict[int, list[str]] = {}
        for index in order:
            answer = await post(gateway, CHAT, requests[index])
            assert _seen(answer) == fresh[index], requests[index]
            assert answer.json["model"] == requests[index]["model"]
            outcomes.setdefault(index, []).append(answer.headers.get("x-vgate-cache", ""))
        assert all(seen[1] == "hit" for seen in outcomes.values())
        # Whoever says the same itself gets the same answer, as it is.
        for mine, alias in (
            ({"max_tokens": 7}, {"model": "a2", "max_tokens": 7, "reasoning_effort": "high"}),
            ({"max_tokens": 6, "top_k": 3}, {"model": "a1", "top_k": 3}),
        ):
            same = {"reasoning_effort": alias.get("reasoning_effort")}
            await post(gateway, CHAT, {"model": "base", "messages": HI, **mine, **same})
            hit = await post(gateway, CHAT, {"messages": HI, **alias})
            assert hit.headers["x-vgate-cache"] == "hit"
            assert hit.json["model"] == alias["model"]

    served(scenario, aliases=aliases, cache=Cache())


def test_a_stream_is_taken_up_under_its_alias(served):
    async def scenario(gateway):
        body = {"model": "deep", "messages": HI, "stream": True, "max_tokens": 20}
        first = await post(gateway, CHAT, body, x_vgate_resumable="true")
        events = [e for e in first.body.decode().split("\n\n") if e.startswith("id: ")]
        assert len(events) > 10
        await gateway.replace_worker()
        last = events[4].partition("\n")[0].removeprefix("id: ")
        rest = await gateway.request("GET", CHAT, last_event_id=last)
        assert [e for e in rest.body.decode().split("\n\n") if e.startswith("id: ")] == events[5:]
        assert '"model":"deep"' in events[5]

    served(scenario)
