"""The address of a request's client, behind the proxies that the operator trusts."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# A request has passed fewer proxies.
_MOST_HOPS = 32
# Returns all values of a header.
Values = Callable[[str], list[str]]


class ClientAddresses:
    """Finds the clients of requests.

    A proxy adds the address that it was asked from to `X-Forwarded-For`, or to `Forwarded`
    (RFC 7239). What a client has written there itself is on the left of it, so the right-most
    address that is no trusted proxy's is the client.

    Args:
        trusted: The addresses or networks (CIDR) of proxies.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = [ip_network(each, strict=False) for each in trusted]

    def of(self, peer: str, values: Values) -> str:
        """Return the address of the client of a request.

        `peer` is the address and port that the connection comes from: the client's own, if it is no
        trusted proxy's.
        """
        if not self._trusted:
            return peer.rpartition(":")[0].strip("[]") or peer
        address = _parsed(peer)
        if address is None:
            return peer
        hops = values("x-forwarded-for") or [*map(_for, _parts(values("forwarded")))]
        for hop in _parts(hops)[: -_MOST_HOPS - 1 : -1]:
            if not self._is_trusted(address) or (before := _parsed(hop)) is None:
                break
            address = before
        return str(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _parts(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",")]


def _for(element: str) -> str:
    """Return the address in an element of `Forwarded`: `for="[2001:db8::1]:4711";proto=https`."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value.strip().strip('"')
    return ""


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address that may have a port; None if it is none, such as `unknown`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # Without its zone (`%eth0`): that is any text, and means nothing on another machine.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
