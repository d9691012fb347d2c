"""The port to the frontends, and whom it is open to; `vgate.wire.sockets` implements it."""

from typing import Protocol

from vgate.wire.messages import PROTOCOL_VERSION, Hello


class Transport(Protocol):
    """The loop's connection to the frontends."""

    def wait(self, timeout_s: float) -> bool:
        """Wait at most this long for a message; return whether there is one."""

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next (peer, payload), or None."""

    def send(self, peer: bytes, payload: bytes) -> bool:
        """Send without waiting; False if the peer is gone or doesn't read."""


def refusal_of(message: Hello) -> str | None:
    """Return why a frontend that says hello can't be served; None if it can."""
    if message.protocol == PROTOCOL_VERSION:
        return None
    return (
        f"the engine speaks protocol {PROTOCOL_VERSION}, {message.name} speaks "
        f"{message.protocol}: run the same V-Gate version everywhere"
    )
