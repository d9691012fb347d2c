"""Which replica of a model runs a request: pure, without sockets and without a clock of its own."""

from vgate.frontend.routing.policies import POLICIES
from vgate.frontend.routing.replica import Replica
from vgate.frontend.routing.router import Router, Ticket

__all__ = ["POLICIES", "Replica", "Router", "Ticket"]
