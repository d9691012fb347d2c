"""``/v1/models`` through the app."""

from vgate.config.schema import AdditionalModel, Model

CARD = {"object": "model", "owned_by": "vgate", "root": "org/model", "parent": None}


def test_every_name_is_listed(serve):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/v1/models")
        assert answer.json["object"] == "list"
        cards = answer.json["data"]
        created = cards[0]["created"]
        assert created > 1_700_000_000
        assert cards == [
            {**CARD, "id": name, "created": created, "max_model_len": 99} for name in ("org/a", "b")
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
