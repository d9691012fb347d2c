"""What is shown of models that may be unloaded, and orders of them; the test is the launcher."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.frontend.gateway import until
from tests.frontend.orders import KEYS, only_admins, ordered
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Server
from vgate.frontend.apis.system.engine_metrics import EngineCollector
from vgate.wire.control import EngineState

MAIN = Model(model_id="org/m", served_model_name=["org/m", "m"], load="pinned")
OTHER = AdditionalModel(model_id="other", load="on_demand")


@pytest.fixture
def two(serve):
    """Run a scenario with a pinned model and one on demand, which is queued."""

    def run(scenario, **sections):
        async def main(gateway):
            gateway.tell(EngineState("ready", "it serves", time.time(), 0, loads=1))
            queued = EngineState("queued", "it waits", time.time(), 1, ahead=2, loads=3, unloads=3)
            gateway.tell(queued)
            states = gateway.app.models.states
            await until(lambda: states()[1].engine.state == "queued", "it is told")
            await scenario(gateway)

        sections = {"model": MAIN, "models": [OTHER], "server": Server(workers=1), **sections}
        serve(main, **sections)

    return run


def test_orders_reach_the_launcher(two):
    async def scenario(gateway):
        order, answer = await ordered(gateway, "models/other/load")
        assert (order.model, order.action, order.force) == ("other", "load", False)
        assert answer.status == 200
        assert answer.json == {"object": "model.order", "model": "other", "action": "load"}
        order, _ = await ordered(gateway, "models/org/m/unload", b'{"force": true}')
        assert (order.model, order.action, order.force) == ("org/m", "unload", True)
        _, answer = await ordered(gateway, "models/org/m/unload", problem="it is pinned")
        assert (answer.status, answer.error["message"]) == (409, "it is pinned")

    two(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("nobody/load", b"", 404, "there is no model `nobody`; there are: org/m, other"),
        ("x" * 5000 + "/load", b"", 404, "there are: org/m, other"),
        ("other/stop", b"", 404, "see /admin/models/{name}/load and /unload"),
        ("load", b"", 404, "see /admin/models/{name}/load and /unload"),
        ("other/unload", b'{"force": 3}', 400, "`force`"),
    ],
)
def test_wrong_orders(two, path, body, status, message):
    async def scenario(gateway):
        answer = await gateway.request("POST", f"/admin/models/{path}", body)
        assert answer.status == status
        assert message in answer.error["message"]

    two(scenario)


def test_only_admins_order(two):
    async def scenario(gateway):
        await only_admins(gateway, "/admin/models", "/admin/models/other/load")

    two(scenario, security=KEYS)


def test_every_state_is_shown(two):
    async def scenario(gateway):
        _, task = gateway.begin_chat(model="other")
        await until(lambda: len(gateway.app.models[1].residence), "it waits")
        listed = (await gateway.request("GET", "/admin/models")).json["data"]
        names = ("model", "load", "status", "ahead", "loads", "unloads", "waiting")
        assert [[model[name] for name in names] for model in listed] == [
            ["org/m", "pinned", "loaded", 0, 1, 0, 0],
            ["other", "on_demand", "queued", 2, 3, 3, 1],
        ]
        cards = (await gateway.request("GET", "/v1/models")).json["data"]
        assert [(card["id"], card["status"]) for card in cards] == [
            ("org/m", {"value": "loaded"}),
            ("m", {"value": "loaded"}),
            ("other", {"value": "queued"}),
        ]
        registry = CollectorRegistry()
        registry.register(EngineCollector(gateway.app.services))
        text = generate_latest(registry).decode()
        for line in (
            'vgate_engine_ready{model="other"} 1.0',
            'vgate_model_state{model="other",state="queued"} 1.0',
            'vgate_model_state{model="other",state="loading"} 0.0',
            'vgate_model_state{model="org/m",state="loaded"} 1.0',
            'vgate_model_loads_total{model="other"} 3.0',
            'vgate_model_unloads_total{model="other"} 3.0',
        ):
            assert line in text
        gateway.tell(EngineState("failed", "no such files", time.time(), 1))
        await asyncio.wait_for(task, 10)
        ready = await gateway.request("GET", "/ready")
        assert ready.status == 200
        assert ready.json["warnings"] == ["the model other can't be loaded: no such files"]

    two(scenario)


def test_models_that_always_are_loaded_have_no_such_series(serve):
    async def scenario(gateway):
        registry = CollectorRegistry()
        registry.register(EngineCollector(gateway.app.services))
        assert "vgate_model_" not in generate_latest(registry).decode()
        (model,) = (await gateway.request("GET", "/admin/models")).json["data"]
        assert model["load"] == "resident"

    serve(scenario)
