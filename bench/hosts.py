"""A V-Gate spread over hosts: gateways and engines' hosts as network namespaces.

They reach each other over tcp with CURVE, and the program that starts them is a host as well, so
that its clients come over the network. It takes root, `ip` (iproute2) and a kernel with network
namespaces, veth and bridges; nothing of the machine's own network is touched.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from bench.chaos.instance import Instance
from bench.compare.service import FailedError
from bench.load.target import resolve
from vgate.wire.link_keys import make_keys

GATEWAYS = ENGINE_HOSTS = 2
# Reserved for benchmarks of networks (RFC 2544).
_NETWORK = "198.18.0"
_OWN_HOST = 254
_HTTP_PORT, _LINK_PORT = 8000, 5710
_BRIDGE = "hosts"
_CLONE_NEWNET = 0x4000_0000


def missing() -> str | None:
    """Return why there can be no hosts here; None if there can."""
    if os.geteuid():
        return "several hosts are network namespaces, which need root"
    if shutil.which("ip") is None:
        return "several hosts are network namespaces, which need ip (iproute2)"
    try:
        with _own_network():
            return None
    except FailedError as error:
        return f"several hosts are network namespaces, which can't be made here: {error}"


def deployed(
    directory: Path, settings: dict[str, object], replicas: int, *, hosts: bool
) -> "Instance | Hosts":
    """Return a V-Gate with so many simulated engines, on one host or on several."""
    if hosts:
        return Hosts(directory, settings, replicas)
    return Instance(directory, {"model__replicas": replicas, **settings}, None)


class Hosts:
    """Two gateways and two engines' hosts, with the face of an `Instance`.

    Args:
        directory: For their files; each has its own below it, and all the same keys.
        settings: Configuration of all, as section__key. The gateways share `server__workers`.
        replicas: Simulated engines, which the engines' hosts share; one without any isn't started.

    Attributes:
        gateways: Those that serve, each on its host.
        targets: Where they serve.
        key: The API key that all of them know.
    """

    def __init__(self, directory: Path, settings: dict[str, object], replicas: int) -> None:
        keys = directory / "link-keys"
        settings = {**settings, "engine_link__keys": str(keys)}
        workers = max(1, int(str(settings.get("server__workers", GATEWAYS))) // GATEWAYS)
        shares = [len(range(n, replicas, ENGINE_HOSTS)) for n in range(ENGINE_HOSTS)]
        self._keys = keys
        self._engines = [
            _Host(directory, "engine", number, {**settings, "model__replicas": share})
            for number, share in enumerate(shares, GATEWAYS + 1)
            if share
        ]
        addresses = [
            {"address": f"tcp://{host.address}:{_LINK_PORT + number}"}
            for host, share in zip(self._engines, shares, strict=False)
            for number in range(share)
        ]
        own = {**settings, "engines": addresses, "server__workers": workers}
        self.gateways = [
            _Host(directory, "frontend", number, own) for number in range(1, GATEWAYS + 1)
        ]
        self.targets = [gateway.target for gateway in self.gateways]
        self.key = self.gateways[0].key

    def __enter__(self) -> Self:
        make_keys(self._keys)
        hosts = [*self.gateways, *self._engines]
        with ExitStack() as stack:
            stack.enter_context(_network(hosts))
            with ThreadPoolExecutor() as pool:
                for _ in pool.map(stack.enter_context, hosts):
                    pass
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def log(self) -> list[tuple[float, str]]:
        """The last lines of the gateways' logs, each with the time at which it came."""
        return [line for gateway in self.gateways for line in list(gateway.log)]

    def pids(self, role: str) -> list[int]:
        """Return the pids of the "engine" or "frontend" processes of all hosts now."""
        hosts = self._engines if role == "engine" else self.gateways
        return [pid for host in hosts for pid in host.pids(role)]


class _Host(Instance):
    """What runs on one of the hosts."""

    def __init__(
        self, directory: Path, role: str, number: int, settings: dict[str, object]
    ) -> None:
        own = directory / f"{role}-{number}"
        own.mkdir()
        self.number, self.address = number, f"{_NETWORK}.{number}"
        self.space = f"vgate-bench-{os.getpid()}-{number}"
        here: dict[str, object] = {"server__host": self.address, "server__port": _HTTP_PORT}
        super().__init__(own, {**here, **settings}, None, role=role)
        self.target = resolve(f"http://{self.address}:{_HTTP_PORT}", allow_remote=True)

    @property
    def command(self) -> list[str]:
        """What starts it, on its host."""
        return ["ip", "netns", "exec", self.space, *super().command]


@contextmanager
def _network(hosts: Sequence[_Host]) -> Iterator[None]:
    """Connect hosts with each other, and with this thread and all that it starts meanwhile.

    Raises:
        FailedError: There can be none here.
    """
    if (reason := missing()) is not None:
        raise FailedError(reason)
    with _own_network():
        try:
            for host in hosts:
                _connect(host)
            yield
        finally:
            for host in hosts:
                delete = ["ip", "netns", "delete", host.space]
                subprocess.run(delete, check=False, capture_output=True)


@contextmanager
def _own_network() -> Iterator[None]:
    """Give this thread a network of its own until the end: a bridge, to which hosts connect."""
    with _own_namespace():
        _ip("link", "set", "lo", "up")
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("address", "add", f"{_NETWORK}.{_OWN_HOST}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        yield


def _connect(host: _Host) -> None:
    port, inside = f"host{host.number}", ["-n", host.space]
    _ip("netns", "add", host.space)
    _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.space)
    _ip("link", "set", port, "master", _BRIDGE, "up")
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip(*inside, "link", "set", "eth0", "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise FailedError(f"ip {' '.join(arguments)} failed", done.stderr)


@contextmanager
def _own_namespace() -> Iterator[None]:
    """Give this thread a namespace of its own until the end."""
    # os.unshare and os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET):
            raise FailedError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.setns(before, _CLONE_NEWNET)
    finally:
        os.close(before)
