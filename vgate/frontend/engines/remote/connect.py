"""Connects a pool to a model's engines, on this host and on others."""

import asyncio
import zlib
from collections.abc import Callable, Collection, Mapping

from vgate.config import Runtime
from vgate.config.joined import JoinedFile, JoinError
from vgate.config.roles import FIRST_FOUND
from vgate.file_watcher import FileWatcher
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.handle import EngineHandle
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.remote.client import RemoteEngine
from vgate.frontend.engines.remote.discovery import Discovery, Target, has_name
from vgate.log import Log
from vgate.wire.link_keys import client_keys
from vgate.wire.sockets import is_tcp

_LOOK_S = 0.5
_BY_NAME = 4
# Numbers of engines that were found are the same in all frontends, so they are made of addresses.
_FOUND = 9_000

log = Log("vgate.frontend")


def engine_count(runtime: Runtime, model: str) -> int:
    """Return how many engines a model has as far as is known; a name counts for several."""
    specs = runtime.engines_of(model).values()
    return sum(_BY_NAME if is_tcp(s.address) and has_name(s.address) else 1 for s in specs)


def connect_engines(
    loop: asyncio.AbstractEventLoop,
    runtime: Runtime,
    model: str,
    worker: int,
    note: Callable[[int, str | None], None],
    pool: EnginePool,
) -> Mapping[int, EngineHandle]:
    """Return the handles of a model's engines on this host, by their numbers.

    Those on other hosts are added later to the pool and to what is returned, and removed again.
    Then `note` is called with their number, and what to say of them; with None when they are gone.
    """
    name, specs = f"frontend-{worker}", runtime.engines_of(model)
    handles: dict[int, EngineHandle] = {
        number: EngineClient(loop, spec.address, name, pool)
        for number, spec in specs.items()
        if not is_tcp(spec.address)
    }
    numbers = {spec.address: number for number, spec in specs.items()}

    def add(target: Target) -> EngineHandle:
        keys = None
        if target.public_key or not runtime.config.engine_link.plaintext:
            keys = client_keys(runtime.config.link_keys, target.public_key or None)
        handle = RemoteEngine(loop, target.address, name, pool, keys)
        number = numbers.setdefault(target.address, _found_number(target, numbers.values()))
        handles[number] = handle
        note(number, f"on another host, at {target.address}")
        pool.add(handle)
        return handle

    def remove(target: Target, handle: EngineHandle) -> None:
        number = numbers[target.address]
        handles.pop(number, None)
        note(number, None)
        pool.remove(handle)

    targets = [Target(s.address, s.public_key) for s in specs.values() if is_tcp(s.address)]
    discovery = Discovery(loop, add, remove, runtime.config.engine_link.resolve_s)
    _follow(loop, JoinedFile(runtime.config), model, discovery, targets)
    return handles


def _follow(
    loop: asyncio.AbstractEventLoop,
    file: JoinedFile,
    model: str,
    discovery: Discovery,
    targets: list[Target],
) -> None:
    """Have a discovery follow the configured targets, and the engines of a model that joined."""
    known, watcher = {target.address for target in targets}, FileWatcher(file.path)

    def follow() -> None:
        try:
            joined = [each for each in file.engines() if each.model == model]
        except JoinError as error:
            log.error("the engines that joined stay as they were", reason=error)
            return
        others = [Target(a, e.public_key) for e in joined for a in e.addresses if a not in known]
        discovery.follow([*targets, *others])

    def look() -> None:
        loop.call_later(_LOOK_S, look)
        if watcher.changed():
            follow()

    loop.call_soon(follow)
    loop.call_soon(look)


def _found_number(target: Target, taken: Collection[int]) -> int:
    number = FIRST_FOUND + zlib.crc32(target.address.encode()) % _FOUND
    while number in taken:
        number += 1
    return number
