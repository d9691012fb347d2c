"""The link to a Valkey or Redis server that gateways share. It is loaded only where one is set.

`SharedState` (`server`) sends calls and knows whether the server is there; `calls` has what the
script `limits.lua`, which decides there, is asked and answers.
"""

import asyncio
from typing import TYPE_CHECKING

from vgate.config.schema import State

if TYPE_CHECKING:
    from vgate.frontend.shared_state.server import SharedState


def shared_state_of(loop: asyncio.AbstractEventLoop, settings: State) -> "SharedState | None":
    """Return a worker's link to the server of `state.url`; None if none is set."""
    if settings.url is None:
        return None
    from vgate.frontend.shared_state.server import SharedState

    return SharedState(loop, settings)
