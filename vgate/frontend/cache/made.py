"""Puts a worker's result cache together."""

import asyncio
from typing import TYPE_CHECKING

from vgate.config.schema import Config
from vgate.frontend.cache.local import LocalStore
from vgate.frontend.cache.port import ResultStore

if TYPE_CHECKING:
    from vgate.frontend.shared_state.server import SharedState


def store_behind(
    loop: asyncio.AbstractEventLoop,
    local: LocalStore,
    shared: "SharedState | None",
    config: Config,
) -> ResultStore:
    """Return a worker's store, with a second level if gateways share one."""
    if shared is None or not config.state.cache:
        return local
    from vgate.frontend.cache.second_level import SecondLevel

    return SecondLevel(loop, local, shared, config.state, config.cache.ttl_s)
