"""Whom `/ready` tells which models' names, where API keys are required."""

import time

import pytest

from tests.frontend.gateway import until
from vgate.config.aliases import Alias
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Security, Server
from vgate.keys import ConfiguredKey
from vgate.wire.control import EngineState

# The first would serve, the second can't be loaded, the third is being loaded.
MODELS = [
    AdditionalModel(model_id="broken", load="on_demand"),
    AdditionalModel(model_id="slow", load="resident"),
]
KEYS = [
    ConfiguredKey(name="boss", key="sk-boss", admin=True, models=["slow"]),
    ConfiguredKey(name="all", key="sk-all"),
    ConfiguredKey(name="first", key="sk-first", models=["m"]),
    ConfiguredKey(name="broken", key="sk-broken", models=["broken"]),
    ConfiguredKey(name="alias", key="sk-alias", models=["quick"]),
    ConfiguredKey(name="other", key="sk-other", models=["other"]),
]
NAMES = "broken", "slow", "quick", "org/m"


@pytest.fixture
def ready_for(serve):
    """Return a function that returns what `/ready` says to each key, "" being none."""

    def run(keys, **sections):
        answers = {}

        async def main(gateway):
            now = time.time()
            gateway.tell(EngineState("unloaded", "org/m: it is idle", now, 0))
            gateway.tell(EngineState("failed", "broken/path has no weights", now, 1))
            gateway.tell(EngineState("starting", "slow: loading 40 %", now, 2))
            states = gateway.app.models.states
            await until(lambda: states()[2].engine.detail == "slow: loading 40 %", "it is told")
            for key in keys:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                answers[key] = await gateway.request("GET", "/ready", **headers)

        security = Security(enabled=True, api_keys=KEYS, exempt_paths=["/ready"])
        sections = {"security": security, **sections}
        serve(
            main,
            model=Model(model_id="org/m", served_model_name="m", load="on_demand"),
            models=MODELS,
            aliases={"quick": Alias(model="slow")},
            server=Server(workers=1),
            engine=False,
            **sections,
        )
        return answers

    return run


@pytest.mark.parametrize("key", ["", "sk-unknown"])
def test_a_stranger_gets_states_and_no_names(ready_for, key):
    answer = ready_for([key])[key]
    assert (answer.status, answer.json["ready"]) == (503, False)
    assert answer.json["reason"] == "1 of 3 models: the engine is starting"
    assert answer.json["states"] == {"unloaded": 1, "failed": 1, "starting": 1}
    assert answer.json["warnings"] == ["a model can't be loaded"]
    assert answer.json["engines"] == []
    assert not any(name in answer.body.decode() for name in NAMES)


def test_an_admin_and_everybody_where_there_are_no_keys_get_all(ready_for):
    answers = ready_for(["sk-boss", "sk-all"])
    for answer in (*answers.values(), ready_for([""], security=Security())[""]):
        assert answer.status == 503
        assert answer.json["reason"] == "slow: the engine is starting: slow: loading 40 %"
        (warning,) = answer.json["warnings"]
        assert warning == "the model broken can't be loaded: broken/path has no weights"
        assert [engine["model"] for engine in answer.json["engines"]] == ["m", "broken", "slow"]


def test_a_key_gets_the_models_that_it_may_use(ready_for):
    answers = ready_for(["sk-first", "sk-broken", "sk-other"])
    first = answers["sk-first"].json
    assert (answers["sk-first"].status, first["reason"], first["warnings"]) == (200, None, [])
    assert first["states"] == {"unloaded": 1}
    (engine,) = first["engines"]
    assert (engine["model"], engine["detail"]) == ("m", "org/m: it is idle")
    broken = answers["sk-broken"].json
    assert broken["ready"]
    assert broken["warnings"] == ["the model broken can't be loaded: broken/path has no weights"]
    assert [engine["engine"] for engine in broken["engines"]] == [1]
    assert answers["sk-other"].json["engines"] == []


def test_a_key_for_an_alias_gets_its_name_and_none_of_the_model(ready_for):
    answer = ready_for(["sk-alias"])["sk-alias"]
    assert answer.json["reason"] == "the engine is starting"
    (engine,) = answer.json["engines"]
    assert (engine["model"], engine["state"], engine["detail"]) == ("quick", "starting", "")
    assert "slow" not in answer.body.decode()


def test_a_shutdown_is_told_to_all(serve):
    async def scenario(gateway):
        gateway.app._launcher.stopping = True
        for headers in ({}, {"authorization": "Bearer sk-first"}):
            answer = await gateway.request("GET", "/ready", **headers)
            assert (answer.status, answer.json["reason"]) == (503, "the server is shutting down")

    serve(scenario, security=Security(enabled=True, api_keys=KEYS), engine=False)
