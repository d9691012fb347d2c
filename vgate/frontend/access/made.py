"""Puts a worker's access together: keys, limits, budgets and counts.

All are on this machine, but for the limits and budgets that gateways share in a server.
"""

import asyncio
import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path
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
    from vgate.frontend.access.limiter.shared import SharedLimiter

    settings = runtime.config.state
    gateway = gateway_id(runtime.config.server.state_path)
    limiter = SharedLimiter(shared, local, settings, gateway, budgets)
    shared.on_beat.append(limiter.renew)
    shared.on_back.append(limiter.tell_all)
    return limiter


def gateway_id(state: Path) -> str:
    """Return the id of a gateway, under which a shared server keeps what it has used by its ledger.

    It is in the state directory, beside the ledger, and made where there is none.

    Raises:
        OSError: It can be neither read nor made.
    """
    path = state / "gateway-id"
    if not path.exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(4)}")
        draft.write_text(secrets.token_hex(8))
        # Another worker may have been first; then its id counts.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text().strip()
