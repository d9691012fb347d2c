"""``/v1/models`` through the app."""

from datetime import datetime

import pytest

from tests.frontend.gateway import chat_body
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Security, Server
from vgate.keys import ConfiguredKey

CARD = {"object": "model", "owned_by": "vgate", "root": "org/model", "parent": None}
# Nobody has told this worker another state.
LOADING = {"value": "loading"}
ANTHROPIC = {"anthropic_version": "2023-06-01"}


def test_every_name_is_listed(serve):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/v1/models")
        assert answer.json["object"] == "list"
        cards = answer.json["data"]
        created = cards[0]["created"]
        assert created > 1_700_000_000
        assert cards == [
            {**CARD, "id": name, "created": created, "max_model_len": 99, "status": LOADING}
            for name in ("org/a", "b")
        ]
        for card in cards:
            # As the HTTP server gives it: percent-decoded.
            assert (await gateway.request("GET", f"/v1/models/{card['id']}")).json == card
        for name in ("c", "org", "org%2Fa", "org/model", "é"):
            missing = await gateway.request("GET", f"/v1/models/{name}")
            assert (missing.status, missing.error["code"]) == (404, "model_not_found"), name
            assert "served: org/a, b" in missing.error["message"]

    serve(
        scenario,
        model=Model(model_id="org/model", served_model_name=["org/a", "b"], max_model_len=99),
    )


def test_models_whose_engine_is_not_there_yet(serve):
    async def scenario(gateway):
        cards = (await gateway.request("GET", "/v1/models")).json["data"]
        assert [(c["id"], c["created"], c["max_model_len"]) for c in cards] == [
            ("m", 0, 99),
            ("e", 0, 50),
        ]

    more = [AdditionalModel(model_id="e", task="embed", max_model_len=50)]
    serve(
        scenario, engine=False, model=Model(model_id="m", max_model_len=99), additional_models=more
    )


class Adapted(Model, frozen=True):
    """A model with two adapters."""

    @property
    def adapter_names(self):
        return ["fine", "finer"]


def test_adapters_come_after_their_model(serve):
    async def scenario(gateway):
        cards = (await gateway.request("GET", "/v1/models")).json["data"]
        assert [(c["id"], c["root"], c["parent"]) for c in cards] == [
            ("base", "org/model", None),
            ("alias", "org/model", None),
            ("fine", "org/model", "base"),
            ("finer", "org/model", "base"),
        ]
        assert {c["max_model_len"] for c in cards} == {99}
        fine = await gateway.request("GET", "/v1/models/fine")
        assert fine.json["parent"] == "base"

    names = ["base", "alias"]
    model = Adapted(model_id="org/model", served_model_name=names, max_model_len=99)
    serve(scenario, model=model)


@pytest.mark.parametrize("any_name", [None, True, False])
def test_a_key_sees_and_uses_only_its_models(serve, any_name):
    async def ask(gateway, key, method="GET", path="/v1/models", body=b""):
        return await gateway.request(method, path, body, authorization=f"Bearer sk-{key}")

    async def scenario(gateway):
        for key, names in (("all", ["base", "alias"]), ("one", ["alias"]), ("none", [])):
            cards = (await ask(gateway, key)).json["data"]
            assert [card["id"] for card in cards] == names
            for name in ("base", "alias"):
                known = (await ask(gateway, key, path=f"/v1/models/{name}")).status == 200
                assert known == (name in names)
        for name, status in (("alias", 200), ("base", 404), ("", 200)):
            for path, body in (
                ("/v1/chat/completions", chat_body(gateway, "x", model=name, max_tokens=2)),
                ("/tokenize", b'{"prompt": "x", "model": "%s"}' % name.encode()),
            ):
                answer = await ask(gateway, "one", "POST", path, body)
                assert answer.status == status, (path, name, answer.body)
                if status == 404:
                    assert answer.error["code"] == "model_not_found"
                    assert "served: alias " in answer.error["message"]
        body = chat_body(gateway, "x", model="unknown", max_tokens=2)
        answer = await ask(gateway, "one", "POST", "/v1/chat/completions", body)
        assert answer.status == (404 if any_name is False else 200)
        answer = await ask(gateway, "none", "POST", "/v1/chat/completions", body)
        assert answer.status == 404

    keys = [
        ConfiguredKey(name="all", key="sk-all"),
        ConfiguredKey(name="one", key="sk-one", models=["alias"]),
        ConfiguredKey(name="none", key="sk-none", models=["gone"]),
    ]
    serve(
        scenario,
        model=Model(model_id="org/model", served_model_name=["base", "alias"]),
        security=Security(enabled=True, api_keys=keys),
        server=Server(any_model_name=any_name),
    )


class TestForAnthropicsClients:
    async def page(self, gateway, query=""):
        answer = await gateway.request("GET", f"/v1/models{query}", **ANTHROPIC)
        assert answer.status == 200, answer.body
        assert answer.headers["request-id"]
        return answer.json

    def test_a_model_and_the_list(self, serve):
        async def scenario(gateway):
            page = await self.page(gateway)
            created = page["data"][0]["created_at"]
            assert datetime.fromisoformat(created).timestamp() > 1_700_000_000
            info = {
                "type": "model",
                "created_at": created,
                "lifecycle": "active",
                "max_input_tokens": 99,
                "max_tokens": None,
            }
            data = [{**info, "id": name, "display_name": name} for name in ("org/a", "b", "c")]
            ends = {"first_id": "org/a", "last_id": "c", "has_more": False}
            assert page == {"data": data, **ends}
            one = await gateway.request("GET", "/v1/models/org/a", **ANTHROPIC)
            assert one.json == page["data"][0]
            assert one.headers["request-id"]

        names = ["org/a", "b", "c"]
        serve(scenario, model=Model(served_model_name=names, max_model_len=99))

    def test_an_unknown_time_is_the_epoch(self, serve):
        async def scenario(gateway):
            (info,) = (await self.page(gateway))["data"]
            assert info["created_at"] == "1970-01-01T00:00:00Z"

        serve(scenario, engine=False, model=Model(model_id="m", max_model_len=99))

    @pytest.mark.parametrize(
        ("query", "ids", "has_more"),
        [
            ("", [f"m{number}" for number in range(20)], True),
            ("?limit=1000", [f"m{number}" for number in range(25)], False),
            ("?limit=2", ["m0", "m1"], True),
            ("?limit=2&after_id=m1", ["m2", "m3"], True),
            ("?limit=2&after_id=m22", ["m23", "m24"], False),
            ("?after_id=m24", [], False),
            ("?limit=2&before_id=m4", ["m2", "m3"], True),
            ("?limit=2&before_id=m2", ["m0", "m1"], False),
            ("?before_id=m0", [], False),
            ("?limit=1&lifecycle[]=retired&lifecycle[]=active", ["m0"], True),
            ("?lifecycle[]=retired", [], False),
        ],
    )
    def test_pages(self, serve, query, ids, has_more):
        async def scenario(gateway):
            page = await self.page(gateway, query)
            assert [info["id"] for info in page["data"]] == ids
            assert page["has_more"] == has_more
            ends = (ids[0], ids[-1]) if ids else (None, None)
            assert (page["first_id"], page["last_id"]) == ends

        serve(scenario, model=Model(served_model_name=[f"m{number}" for number in range(25)]))

    @pytest.mark.parametrize(
        ("query", "parameter"),
        [
            ("?limit=0", "limit"),
            ("?limit=1001", "limit"),
            ("?limit=", "limit"),
            ("?limit=" + "9" * 4000, "limit"),
            ("?limit=%C2%B2", "limit"),
            ("?after_id=x", "after_id"),
            ("?before_id=x", "before_id"),
            ("?before_id=m&after_id=m", "before_id"),
        ],
    )
    def test_wrong_parameters(self, serve, query, parameter):
        async def scenario(gateway):
            answer = await gateway.request("GET", f"/v1/models{query}", **ANTHROPIC)
            assert (answer.status, answer.json["type"]) == (400, "error")
            assert answer.error["type"] == "invalid_request_error"
            assert answer.error["message"].startswith(f"`{parameter}` ")

        serve(scenario, model=Model(served_model_name="m"))

    def test_other_parameters_are_told(self, serve):
        async def scenario(gateway):
            answer = await gateway.request("GET", "/v1/models?beta=true", **ANTHROPIC)
            assert (answer.status, answer.headers["x-vgate-ignored"]) == (200, "beta")

        serve(scenario)

    def test_errors_are_anthropic_s(self, serve):
        async def scenario(gateway):
            bearer = {"authorization": "Bearer sk-one"}
            missing = await gateway.request("GET", "/v1/models/hidden", **bearer, **ANTHROPIC)
            assert (missing.status, missing.json["type"]) == (404, "error")
            assert missing.error["type"] == "not_found_error"
            assert "hidden" not in missing.error["message"].partition("served:")[2]
            refused = await gateway.request("GET", "/v1/models", **ANTHROPIC)
            assert (refused.status, refused.error["type"]) == (401, "authentication_error")
            assert (await gateway.request("GET", "/v1/models")).error["code"] == "invalid_api_key"
            listed = await gateway.request("GET", "/v1/models", **bearer, **ANTHROPIC)
            assert [info["id"] for info in listed.json["data"]] == ["shown"]

        key = ConfiguredKey(name="one", key="sk-one", models=["shown"])
        serve(
            scenario,
            model=Model(served_model_name=["shown", "hidden"]),
            security=Security(enabled=True, api_keys=[key]),
        )
