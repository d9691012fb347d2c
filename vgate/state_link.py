"""Reaches the Valkey or Redis server of `state.url`, and says in words what is wrong with it.

The package redis is imported only when a client is made.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vgate.config.schema import State

if TYPE_CHECKING:
    from redis.asyncio import Redis

MISSING = (
    "state.url is set, but the package redis is not installed: pip install 'vgate[state]', "
    "or leave state.url out"
)

_NO_URL = (
    "it is no URL such as valkey://:PASSWORD@HOST:6379/0; in a password, / is written %2F, # %23, "
    "? %3F and [ %5B"
)

# Whoever only looks waits longer than a request would.
_LOOK_S = 3.0
# What the script needs: a script's effects are replicated, not the script, so it may read the time.
_OLDEST = (5, 0)
# Policies that remove nothing that has no end of its own; limits have one, so only this is safe.
_KEEPS_ALL = "noeviction"

# Codes with which the server refuses all that we ask, and what they mean.
_CODES = {
    "OOM": "its memory is full (maxmemory), so it takes nothing new: give it more, or keep answers "
    "out of it (state.cache: false)",
    "READONLY": "it is a read-only replica: name the primary in state.url",
    "NOAUTH": "it wants a password: put it into state.url (valkey://:PASSWORD@HOST)",
    "WRONGPASS": "it doesn't accept the user or the password of state.url",
    "NOPERM": "its ACL doesn't let this user do what is needed (EVALSHA, EVAL, SCRIPT LOAD, GET, "
    "SET and what the script does, on keys with state.prefix)",
    "LOADING": "it is still loading its data",
    "BUSY": "it is busy with another script",
    "MASTERDOWN": "it is a replica without its primary",
    "MISCONF": "it can't save its data and so takes no writes: see its log",
    "CLUSTERDOWN": "its cluster is down",
    "MOVED": "it is one node of a cluster, and the keys are in another: name the cluster's proxy",
    "NOREPLICAS": "it has too few replicas to take writes",
}
_CODE = re.compile(r"^([A-Z]{2,}) ")


def open_client(
    state: State,
    *,
    timeout_s: float,
    on_connect: Callable[[Any], Awaitable[None]] | None = None,
) -> "Redis":
    """Return a client of the server; it connects when it is used, and repeats no command.

    `on_connect` makes a connection ready; what it raises ends the connection.

    Raises:
        ValueError: The URL or the file of CAs can't be used.
    """
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    assert state.url is not None
    scheme, _, rest = state.url.partition("://")
    try:
        _ = urlsplit(state.url).port
    except ValueError:  # whose words have a part of the password, if that ends the host
        raise ValueError(_NO_URL) from None
    options: dict[str, Any] = {}
    if _speaks_tls(state):
        options["ssl_ca_certs"] = state.ca
    client: Redis = redis.asyncio.Redis.from_url(
        f"{scheme.replace('valkey', 'redis')}://{rest}",
        socket_connect_timeout=timeout_s,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        # The older protocol, which every server and proxy knows.
        protocol=2,
        client_name="vgate",
        redis_connect_func=on_connect,
        **options,
    )
    return client


def read_info(text: bytes) -> dict[str, str]:
    """Return what INFO answers."""
    lines = text.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def code_of(error: BaseException) -> str | None:
    """Return the code of an error with which the server refuses everything; None for another."""
    from redis import exceptions

    kinds = {
        exceptions.OutOfMemoryError: "OOM",
        exceptions.ReadOnlyError: "READONLY",
        exceptions.NoPermissionError: "NOPERM",
        exceptions.BusyLoadingError: "LOADING",
        exceptions.AuthenticationError: "NOAUTH",
        exceptions.MovedError: "MOVED",
        exceptions.ClusterDownError: "CLUSTERDOWN",
        exceptions.MasterDownError: "MASTERDOWN",
    }
    for kind, code in kinds.items():
        if isinstance(error, kind):
            wrong = code == "NOAUTH" and "required" not in str(error).lower()
            return "WRONGPASS" if wrong else code
    found = _CODE.match(str(error))
    return found[1] if found and found[1] in _CODES else None


def explain(error: BaseException) -> str:
    """Return in words why the server could not be asked."""
    import ssl

    if code := code_of(error):
        return _CODES[code]
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return f"its certificate isn't trusted ({why}): name its CA in state.ca"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or cause}): does it speak TLS on this port?"
        if isinstance(cause, TimeoutError):
            return "it doesn't answer in time"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def problems(state: State) -> list[str]:
    """Return what is wrong with the server, asked now; nothing if it can be used, or none is set.

    The first words say what it is about.
    """
    if state.url is None:
        return []
    if find_spec("redis") is None:
        return [MISSING]
    try:
        return [f"state.url: {problem}" for problem in asyncio.run(_look(state))]
    except Exception as error:  # noqa: BLE001 - whatever the library or the server comes up with
        reason = explain(error)
        return [f"state.url: the server can't be used: {reason}{_hint(state, reason)}"]


def _hint(state: State, reason: str) -> str:
    """Return what is often the cause of a connection without an answer."""
    if _speaks_tls(state):
        return "; does it speak TLS on this port?" if "in time" in reason else ""
    ended = any(word in reason.lower() for word in ("closed", "reset"))
    return "; does it want TLS (valkeys://)?" if ended else ""


def _speaks_tls(state: State) -> bool:
    return state.url is not None and state.url.startswith(("valkeys:", "rediss:"))


async def _look(state: State) -> list[str]:
    client = open_client(state, timeout_s=_LOOK_S)
    try:
        async with asyncio.timeout(2 * _LOOK_S):
            await client.ping()
            found = await client.info("server", "memory", "replication", "cluster")
            with contextlib.suppress(TimeoutError):
                await _try_to_write(client, state)
    finally:
        await client.aclose()
    return list(_wrong_with(found))


async def _try_to_write(client: "Redis", state: State) -> None:
    await client.eval(
        "redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', 1000)", 1, f"{state.prefix}:check"
    )


def _wrong_with(info: dict[str, Any]) -> Iterator[str]:
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        yield f"the server has version {version}, and {needed} or newer is needed"
    if info.get("cluster_enabled"):
        yield "the server is one node of a cluster: name a proxy of the cluster instead"
    policy = info.get("maxmemory_policy", _KEEPS_ALL)
    if info.get("maxmemory") and policy != _KEEPS_ALL:
        yield (
            f"the server may evict what keys have used of their limits (maxmemory-policy "
            f"{policy}): set it to {_KEEPS_ALL}"
        )
