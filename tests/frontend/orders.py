"""Orders of admins, for tests that speak as the launcher."""

import asyncio

from tests.frontend.gateway import until
from vgate.config.schema import Security
from vgate.keys import ConfiguredKey
from vgate.wire.control import EngineOrder, EngineOrdered, ModelOrder

ALICE = {"authorization": "Bearer " + "a" * 20}
ROOT = {"authorization": "Bearer " + "r" * 20}
# Alice is no admin.
KEYS = Security(
    enabled=True,
    api_keys=[
        ConfiguredKey(name="alice", key="a" * 20),
        ConfiguredKey(name="root", key="r" * 20, admin=True),
    ],
)


async def ordered(gateway, path, body=b"", problem=""):
    """Send an order, and answer it as the launcher; return the order and the response."""
    protocol, task = gateway.begin("POST", f"/admin/{path}", body)

    def heard():
        gateway.hear()
        return next((m for m in gateway.heard if isinstance(m, EngineOrder | ModelOrder)), None)

    order = await until(heard, "the order")
    gateway.heard.remove(order)
    gateway.tell(EngineOrdered(order.id, problem))
    await asyncio.wait_for(task, 10)
    return order, protocol


async def only_admins(gateway, listing, order):
    """Check that only an admin gets a listing and may order, where `KEYS` are the keys."""
    for method, path in (("GET", listing), ("POST", order)):
        assert (await gateway.request(method, path, **ALICE)).status == 403
    assert (await gateway.request("GET", listing, **ROOT)).status == 200
