"""Puts a worker's access together: keys, limits, budgets and counts.

All are on this machine, but for the limits and budgets that gateways share in a server.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from vgate.config import Runtime
from vgate.frontend.access.admission import Access
from vgate.frontend.access.budget import Budgets
from vgate.frontend.access.limiter import LocalLimiter
from vgate.frontend.access.meter import Meter, tokens_used_since

if TYPE_CHECKING:
    from vgate.frontend.access.limiter.shared import SharedLimiter
    from vgate.frontend.shared_state.server import SharedState


def access_of(
    loop: asyncio.AbstractEventLoop, runtime: Runtime, worker: int, shared: "SharedState | None"
) -> Access:
    """Return the access of a worker; `shared` is the link to the server, if there is one.

    Raises:
        KeysError: There are no valid keys.
    """
    config, state = runtime.config, runtime.config.server.state_path
    budgets = Budgets(runtime.directory("budgets"), worker, partial(tokens_used_since, state))
    local = LocalLimiter(runtime.directory("limits"), worker)
    limiter = None if shared is None else _shared_limiter(runtime, shared, local, budgets)
    access = Access(
        loop,
        config.security,
        runtime.directory("kept-keys") / "keys.jsonl",
        limiter or local,
        Meter(state, budgets, per_key=config.metrics.per_key),
        isolate_keys=config.cache.isolate_keys,
        is_local=config.server.is_local,
    )
    if limiter is not None:
        limiter.know(access.limits)
    return access


def _shared_limiter(
    runtime: Runtime, shared: "SharedState", local: LocalLimiter, budgets: Budgets
) -> "SharedLimiter":
    # It needs the packages of the server's client.
    from vgate.frontend.access.gateway_id import gateway_id
    from vgate.frontend.access.limiter.shared import SharedLimiter

    settings = runtime.config.state
    gateway = gateway_id(runtime.config.server.state_path)
    limiter = SharedLimiter(shared, local, settings, gateway, budgets)
    shared.on_beat.append(limiter.renew)
    shared.on_back.append(limiter.tell_all)
    return limiter
