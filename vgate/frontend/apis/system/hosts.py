"""Hosts that join with their engines: invitations, what a host is told, and who has joined."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vgate.config.links import TcpAddress
from vgate.config.roles import split_address
from vgate.errors import InvalidValueError, MethodNotAllowedError, PayloadTooLargeError
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.system.admin import asked_by
from vgate.frontend.http import JSON, SMALL_BYTES, HttpRequest, Response
from vgate.frontend.services import Services
from vgate.log import Log

PREFIX = "/admin/hosts/"
_LONGEST_HOST, _HIGHEST_PORT = 253, 65_535

log = Log("vgate.frontend")


class NewInvitation(msgspec.Struct, frozen=True):
    """What ``POST /admin/hosts`` takes.

    Attributes:
        model: Its name; without one, the main model.
        for_s: Seconds in which a host may join.
    """

    model: str | None = None
    for_s: Annotated[float, Meta(ge=1, le=7 * 24 * 3600)] = 900.0


class JoinRequest(msgspec.Struct, frozen=True):
    """What ``POST /engines/join`` takes.

    Attributes:
        token: Of the invitation.
        name: Of the host, to remove it by.
        addresses: Of its engines; without any, the host only asks for the settings.
        public_key: Of its engines.
    """

    token: Annotated[str, Meta(min_length=1, max_length=200)]
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$")] = "host"
    addresses: Annotated[list[TcpAddress], Meta(max_length=64)] = []
    public_key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] = "0" * 64


_decode_invitation = msgspec.json.Decoder(NewInvitation)
_decode_join = msgspec.json.Decoder(JoinRequest)


async def hosts(services: Services, http: HttpRequest) -> Response:
    """List the hosts that have joined, or make an invitation for another one."""
    if http.method != "POST":
        return _json({"object": "list", "data": await services.hosts.joined()})
    body = await services.work.body(http, SMALL_BYTES)
    wanted = decode_request(_decode_invitation, body, http.ignored) if body else NewInvitation()
    invitation = await services.hosts.invite(wanted.model, wanted.for_s)
    log.info("a host was invited", model=invitation["model"], by=asked_by(http))
    return _json(invitation, 201)


async def one_host(services: Services, http: HttpRequest) -> Response:
    """Remove a host that has joined; its engines finish their requests."""
    if http.method != "DELETE":
        raise MethodNotAllowedError(f"{PREFIX}NAME takes DELETE", allow="DELETE")
    name = http.path.removeprefix(PREFIX)
    await services.hosts.remove(name)
    log.info("a host was removed", name=name, by=asked_by(http))
    return _json({"name": name, "deleted": True})


async def join(services: Services, http: HttpRequest) -> Response:
    """Tell a host that has a token what to serve, and use its engines from then on."""
    try:
        # It comes from anybody, and its decoding is in the way of others.
        body = await services.work.body(http, SMALL_BYTES)
    except PayloadTooLargeError:
        raise PayloadTooLargeError(f"the body must be at most {SMALL_BYTES} bytes") from None
    request = decode_request(_decode_join, body, http.ignored)
    _check_addresses(request.addresses)
    settings = await services.hosts.settings(request.token)
    if request.addresses:
        await services.hosts.join(
            request.token, request.name, request.addresses, request.public_key
        )
        log.info("a host has joined", name=request.name, addresses=request.addresses)
    return _json(settings)


def _check_addresses(addresses: list[str]) -> None:
    """Raise `InvalidValueError` for what no socket can connect to."""
    for index, address in enumerate(addresses):
        port = address.rpartition(":")[2]
        fits = port.isascii() and port.isdecimal() and 0 < int(port) <= _HIGHEST_PORT
        if not fits or len(split_address(address)[0]) > _LONGEST_HOST:
            where = f"addresses[{index}]"
            message = (
                f"`{where}` must have a host of at most {_LONGEST_HOST} characters and a port "
                f"from 1 to {_HIGHEST_PORT}"
            )
            raise InvalidValueError(message, param=where)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(body), [JSON])
