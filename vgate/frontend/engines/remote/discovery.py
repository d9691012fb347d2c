"""Keeps a pool's engines on other hosts in step with their addresses, of which some are names.

A name stands for as many engines as it has addresses, as that of a headless Service in Kubernetes
does. It is looked up again every few seconds: engines come, and those that are gone get nothing
new. A name that can't be looked up changes nothing: engines outlive a name server's trouble.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vgate.config.roles import split_address
from vgate.frontend.engines.handle import EngineHandle
from vgate.log import Log
from vgate.wire.link_keys import LinkKeyError
from vgate.wire.sockets import EndpointError

log = Log("vgate.frontend")


class Target(NamedTuple):
    """Where engines are: an address, perhaps with a name for several; and their public key."""

    address: str
    public_key: str = ""


class Discovery:
    """Adds engines and removes them.

    Args:
        add: Connects to a target whose address has no name.
        remove: Gives its engine nothing more.
        every_s: How often names are looked up.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        add: Callable[[Target], EngineHandle],
        remove: Callable[[Target, EngineHandle], None],
        every_s: float,
    ) -> None:
        self._loop = loop
        self._add = add
        self._remove = remove
        self._every_s = every_s
        self._targets: list[Target] = []
        # By the named target: the engines that it stands for.
        self._found: dict[Target, dict[Target, EngineHandle]] = {}
        self._looking: asyncio.Task[None] | None = None

    def follow(self, targets: Sequence[Target]) -> None:
        """Connect to these, and to no others from now on."""
        self._targets = list(targets)
        for gone in self._found.keys() - set(targets):
            self._use(gone, [])
            del self._found[gone]
        for target in targets:
            if not has_name(target.address):
                self._use(target, [target])
        named = any(has_name(target.address) for target in targets)
        if named and self._looking is None:
            self._looking = self._loop.create_task(self._look())
        elif not named and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while True:
            for target in [each for each in self._targets if has_name(each.address)]:
                found = await self._resolved(target)
                if found and target in self._targets:
                    self._use(target, found)
            await asyncio.sleep(self._every_s)

    async def _resolved(self, target: Target) -> list[Target]:
        """Return a target for each address of a name; none if it can't be looked up."""
        host, port = split_address(target.address)
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # the latter for what can't be a name
            if target not in self._found:
                log.warning("cannot look up an engine's host", host=host, reason=error)
            return []
        # A host may have addresses of both kinds, and is one engine.
        families = {family for family, *_ in found}
        family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
        hosts = sorted({str(address[0]) for kind, *_, address in found if kind == family})
        return [target._replace(address=_address(host, port)) for host in hosts]

    def _use(self, target: Target, wanted: Sequence[Target]) -> None:
        """Have a target stand for these engines."""
        known = self._found.setdefault(target, {})
        for one in wanted:
            if one in known:
                continue
            try:
                known[one] = self._add(one)
            except (EndpointError, LinkKeyError) as error:
                log.error("cannot connect to an engine", address=one.address, reason=error)
                continue
            log.info("an engine on another host is used", address=one.address)
        for gone in known.keys() - set(wanted):
            self._remove(gone, known.pop(gone))
            log.info("an engine on another host is no longer used", address=gone.address)


def has_name(address: str) -> bool:
    """Whether the host of a tcp address is a name, which may stand for several."""
    host, _ = split_address(address)
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True
    return False


def _address(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
