"""The engine with the fewest of this frontend's sequences."""

from vgate.frontend.engines.handle import EngineHandle
from vgate.wire.messages import Embed, Generate


def least_in_flight(engines: list[EngineHandle], _message: Generate | Embed) -> EngineHandle:
    """Return the engine with the fewest sequences in flight; of several, the first."""
    return min(engines, key=lambda engine: engine.in_flight)
