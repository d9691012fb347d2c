"""What an admin sees of the engines and orders of them; the test speaks as the launcher."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.frontend.gateway import Engine, until
from tests.frontend.orders import KEYS, only_admins, ordered
from vgate.config.model import Model
from vgate.config.schema import Server
from vgate.frontend.apis.system.engine_metrics import EngineCollector
from vgate.wire.control import EngineState

TWO = Model(model_id="m", replicas=2)
ONE_WORKER = Server(workers=1)


@pytest.fixture
def two(serve):
    """Run a scenario with a worker and two replicas, of which the second has no engine yet."""

    def run(scenario, **sections):
        serve(scenario, **{"model": TWO, "server": ONE_WORKER, **sections})

    return run


def test_each_engine_is_listed(two):
    async def scenario(gateway):
        gateway.tell(EngineState("ready", "it serves", time.time(), 0))
        gateway.tell(EngineState("failed", "it died", time.time(), 1, restarts=3))

        states = gateway.app.models.states
        await until(lambda: states()[0].replicas[1].engine.state == "failed", "it is told")
        await until(lambda: states()[0].replicas[0].serves, "it is connected")
        found = (await gateway.request("GET", "/admin/engines")).json["data"]
        names = ("engine", "model", "replica", "state", "serves", "restarts", "running")
        assert [[engine[name] for name in names] for engine in found] == [
            [0, "m", 0, "ready", True, 0, 0],
            [1, "m", 1, "failed", False, 3, 0],
        ]
        engines = (await gateway.request("GET", "/ready")).json["engines"]
        assert [engine["state"] for engine in engines] == ["ready", "failed"]
        assert [(engine["engine"], engine["replica"]) for engine in engines] == [(0, 0), (1, 1)]
        registry = CollectorRegistry()
        registry.register(EngineCollector(gateway.app.services))
        text = generate_latest(registry).decode()
        for line in (
            'vgate_engine_ready{model="m",replica="0"} 1.0',
            'vgate_engine_ready{model="m",replica="1"} 0.0',
            'vgate_engine_restarts_total{model="m",replica="1"} 3.0',
            'vgate_engine_state{model="m",replica="1",state="failed"} 1.0',
            'vgate_engine_state{model="m",replica="1",state="ready"} 0.0',
            'vgate_waiting_requests{model="m",replica="1"} 0.0',
        ):
            assert line in text

    two(scenario)


def test_orders_reach_the_launcher(two):
    async def scenario(gateway):
        order, answer = await ordered(gateway, "engines/1/drain")
        assert (order.engine, order.action, order.force) == (1, "drain", False)
        assert answer.status == 200
        assert answer.json == {"object": "engine.order", "engine": 1, "action": "drain"}
        order, _ = await ordered(gateway, "engines/1/drain", b'{"restart": true, "force": true}')
        assert (order.action, order.force) == ("restart", True)
        order, _ = await ordered(gateway, "engines/0/resume")
        assert (order.engine, order.action) == (0, "resume")
        _, answer = await ordered(gateway, "engines/1/drain", problem="it is the only one")
        assert answer.status == 409
        assert (answer.error["code"], answer.error["message"]) == (
            "engine_order_refused",
            "it is the only one",
        )

    two(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("2/drain", b"", 404, "there is no engine `2`; there are: 0, 1"),
        ("x/drain", b"", 404, "there is no engine `x`; there are: 0, 1"),
        ("9" * 5000 + "/drain", b"", 404, "there are: 0, 1"),
        ("1/stop", b"", 404, "see /admin/engines/{number}/drain and /resume"),
        ("1/drain", b'{"force": 3}', 400, "`force`"),
        ("1/drain", b"no", 400, "not valid JSON"),
    ],
)
def test_wrong_orders(two, path, body, status, message):
    async def scenario(gateway):
        answer = await gateway.request("POST", f"/admin/engines/{path}", body)
        assert answer.status == status
        assert message in answer.error["message"]

    two(scenario)


def test_only_admins_order(two):
    async def scenario(gateway):
        await only_admins(gateway, "/admin/engines", "/admin/engines/1/drain")

    two(scenario, security=KEYS)


def test_an_engine_that_is_drained_gets_nothing_new(two):
    async def scenario(gateway):
        second = Engine(gateway.runtime, 1)
        second.start()
        try:
            pool = gateway.app.models[0].engine
            await until(lambda: len(pool._usable) == 2, "both are connected")
            gateway.engine._loop.cordoned = True
            await until(lambda: len(pool._accepting) == 1, "it is drained")
            for _ in range(4):
                assert (await gateway.chat("hi")).status == 200
            assert gateway.engine._loop.stats.now(0, 0, 0).batch_size.total == 0
            assert (await gateway.request("GET", "/ready")).status == 200
            second._loop.cordoned = True
            await until(lambda: not pool.accepts, "both are drained")
            ready = await gateway.request("GET", "/ready")
            assert (ready.status, ready.json["reason"][:29]) == (
                503,
                "the engine takes nothing new:",
            )
            _, task = gateway.begin_chat("it waits")
            await asyncio.sleep(0.05)
            assert not task.done()
            gateway.engine._loop.cordoned = False
            await asyncio.wait_for(task, 10)
        finally:
            await second.stop()

    two(scenario)
