"""``/v1/models`` through the app."""

import pytest

from tests.frontend.gateway import chat_body
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Security, Server
from vgate.keys import ConfiguredKey

CARD = {"object": "model", "owned_by": "vgate", "root": "org/model", "parent": None}
# Nobody has told this worker another state.
LOADING = {"value": "loading"}


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
