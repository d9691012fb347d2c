"""The engines on other hosts, and how frontends and engines find and trust each other."""

import ipaddress
from typing import Annotated

from msgspec import Meta

from vgate.config.section import MIB, NonEmptyStr, PositiveFloat, Section

# `tcp://host:port`, where the host may be a name, an address, or an IPv6 address in brackets.
TcpAddress = Annotated[str, Meta(pattern=r"^tcp://(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}$")]
# The 32 bytes of a key, as hexadecimal digits.
PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


def is_loopback(host: str) -> bool:
    """Whether a host is the loopback interface. An IPv6 address may be in brackets."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class RemoteEngine(Section, frozen=True, kw_only=True):
    """Engines on other hosts, to which frontends connect.

    Attributes:
        address: Where they listen; each address of a name is an engine.
        model: The first of the model's served names; None: the main model's.
        public_key: Theirs; None: the one in `engine_link.keys`.
    """

    address: TcpAddress
    model: NonEmptyStr | None = None
    public_key: PublicKey | None = None


class EngineLink(Section, frozen=True):
    """The connections between frontends and engines on different hosts."""

    listen: TcpAddress = "tcp://0.0.0.0:5710"
    keys: NonEmptyStr | None = None
    plaintext: bool = False
    resolve_s: PositiveFloat = 5
    max_message_bytes: Annotated[int, Meta(ge=MIB)] = 64 * MIB
