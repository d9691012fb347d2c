"""Routing policies: which of a model's engines gets a new sequence.

A policy is a function in a file of its own, and a line in `POLICIES`.
"""

from collections.abc import Callable

from vgate.frontend.engines.handle import EngineHandle
from vgate.frontend.engines.policies.least_in_flight import least_in_flight
from vgate.wire.messages import Embed, Generate

__all__ = ["POLICIES", "Policy"]

# Gets the engines that take sequences, at least two, and the request; returns one of them.
Policy = Callable[[list[EngineHandle], Generate | Embed], EngineHandle]

POLICIES: dict[str, Policy] = {
    "least_in_flight": least_in_flight,
}
