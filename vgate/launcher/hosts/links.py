"""What keeps an instance from its links to other hosts, found before it starts."""

from collections.abc import Iterator

from vgate.config import Config
from vgate.config.links import is_loopback
from vgate.config.roles import split_address
from vgate.config.runtime import Role
from vgate.wire.link_keys import (
    ALLOWED,
    ENGINE_KEY,
    LinkKeyError,
    client_keys,
    read_allowed,
    read_key,
)

_HIGHEST_PORT = 65_535


def link_problems(config: Config, role: Role) -> Iterator[str]:
    """Yield what is wrong with addresses and keys, one sentence each."""
    link, names = config.engine_link, {model.name for model in config.all_models}
    listens = role == "engine"
    remote = [] if listens else config.engines
    if role == "frontend" and not remote:
        yield "there are no engines: set `engines`, or give --engines tcp://HOST:PORT"
    for engine in remote:
        if engine.model is not None and engine.model not in names:
            known = ", ".join(sorted(names))
            yield f"engines: no model has the name `{engine.model}`; there are: {known}"
    addresses = [link.listen] if listens else [engine.address for engine in remote]
    for address in addresses:
        host, port = split_address(address)
        if not 0 < port <= _HIGHEST_PORT:
            yield f"{address}: a port is a number from 1 to {_HIGHEST_PORT}"
        if link.plaintext and not is_loopback(host):
            yield (
                f"{address} is not on this machine, so engine_link.plaintext must be false: "
                "`vgate keys engine` makes the keys"
            )
    if remote and 2 * config.server.max_body_bytes > link.max_message_bytes:
        yield (
            f"server.max_body_bytes is {config.server.max_body_bytes}, so "
            f"engine_link.max_message_bytes must be at least {2 * config.server.max_body_bytes}, "
            "here and on the engines' hosts"
        )
    if link.plaintext:
        return
    try:
        if listens:
            read_key(config.link_keys / ENGINE_KEY)
            read_allowed(config.link_keys / ALLOWED)
        elif remote:
            shared = all(engine.public_key for engine in remote)
            client_keys(config.link_keys, remote[0].public_key if shared else None)
    except LinkKeyError as error:
        yield str(error)
