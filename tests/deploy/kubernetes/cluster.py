"""A cluster of network namespaces that runs the chart's manifests: nodes' and controllers' work.

All pods are on one bridge, in a network namespace of their own, which the caller's thread enters.
A Service's name resolves, by the pods' /etc/hosts, to its own address, where each connection is
passed to one of its ready pods, or to its pods' addresses if it is headless. As in a cluster,
endpoints are told a moment after a pod has changed, and a connection stays with its pod.
"""

import asyncio
import base64
import contextlib
import ctypes
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.deploy.kubernetes.pods import Manifest, Pod, make_image

# How long a change takes to reach the nodes.
LAG_S = 0.5
# Only a hang lasts longer, however busy the machine.
_DEADLINE_S = 240
_NETWORK = "10.231.0"
# Where this thread itself can be reached by pods.
HOST = f"{_NETWORK}.1"
_CLONE_NEWNET = 0x40000000


def ip(*arguments: str, lines: str | None = None) -> None:
    """Run `ip`, perhaps on lines with a command each."""
    more = [] if lines is None else ["-batch", "-"]
    subprocess.run(["ip", *arguments, *more], input=lines, text=True, check=True)


@contextlib.contextmanager
def network(name: str) -> Iterator[None]:
    """Make a namespace with a bridge, and move this thread into it.

    What this thread starts and connects to is in there, so nothing of this machine's is reached.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    ip("netns", "add", name)
    try:
        enter(Path("/run/netns", name))
        bridge = f"link add pods type bridge\naddress add {HOST}/24 dev pods\n"
        ip(lines=f"link set lo up\n{bridge}link set pods up\n")
        yield
    finally:
        enter(Path(f"/proc/self/fd/{own}"))
        os.close(own)
        ip("netns", "delete", name)


def enter(namespace: Path) -> None:
    """Move this thread to a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


def missing() -> str:
    """Return what this machine lacks; "" if it can run a cluster."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    tools = ("ip", "unshare", "nsenter", "setpriv", "mount")
    if lacking := [tool for tool in tools if shutil.which(tool) is None]:
        return f"{', '.join(lacking)} can't be found"
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        return "the kernel has no overlay filesystem"
    name = f"vgate-{os.getpid()}"
    make = f"ip netns add {name} && ip -n {name} link add pods type bridge && "
    make += f"ip -n {name} link add one type veth peer name two"
    tried = subprocess.run(make, shell=True, capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return tried.stderr.strip()


class Service:
    """A Service: its address, and the endpoints that the nodes know of."""

    def __init__(self, manifest: Manifest, address: str) -> None:
        self.name: str = manifest["metadata"]["name"]
        self.spec = manifest["spec"]
        self.headless = self.spec.get("clusterIP") == "None"
        self.address = address
        self.endpoints: list[Pod] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []

    def choose(self, pods: list[Pod]) -> list[Pod]:
        """Return the pods that belong to it now."""
        labels = self.spec["selector"].items()
        return [
            pod
            for pod in pods
            if labels <= pod.labels.items()
            and (self.spec.get("publishNotReadyAddresses") or (pod.ready and not pod.ending))
        ]

    async def serve(self) -> None:
        """Accept connections at its address."""
        ip("address", "add", f"{self.address}/32", "dev", "pods")
        for port in self.spec["ports"]:

            async def accept(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                target: str | int = port["targetPort"],
            ) -> None:
                await self._pass_on(reader, writer, target)

            self._servers.append(await asyncio.start_server(accept, self.address, port["port"]))

    def close(self) -> None:
        """Accept no more, and end all connections."""
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str | int
    ) -> None:
        writers = [writer]
        self._writers.add(writer)
        # Without an endpoint a connection is reset.
        with contextlib.suppress(OSError, IndexError):
            pod = random.choice(self.endpoints)
            up_reader, up_writer = await asyncio.open_connection(pod.address, pod.port(target))
            writers.append(up_writer)
            self._writers.add(up_writer)
            await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))
        for each in writers:
            each.transport.abort()
            self._writers.discard(each)
            with contextlib.suppress(OSError):
                await each.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        # A reset is passed on too.
        writer.transport.abort()


class Cluster:
    """Runs manifests until it is closed; a context manager of a thread in `network`.

    Args:
        directory: For what is made.
        namespace: The prefix of the pods' network namespaces.
        secrets: Those that manifests only name: their files by Secret.
    """

    def __init__(self, directory: Path, namespace: str, secrets: dict[str, dict[str, str]]) -> None:
        self.pods: list[Pod] = []
        self.services: dict[str, Service] = {}
        self._directory = directory
        self._namespace = namespace
        self._objects: dict[tuple[str, str], Manifest] = {
            ("Secret", name): {"data": files} for name, files in secrets.items()
        }
        self._numbers = itertools.count(10)
        self._hosts = directory / "hosts"
        self._workloads: dict[str, Manifest] = {}
        # Names that are none of the manifests', by the address of this thread's own host.
        self.names: list[str] = []
        self._ended: list[Pod] = []

    async def __aenter__(self) -> Self:
        self._hosts.write_text("127.0.0.1 localhost\n")
        make_image(self._directory / "image")
        self._telling = asyncio.create_task(self._tell_endpoints())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._telling.cancel()
        for pod in self.pods:
            await pod.discard()
            self._remove(pod)
        for service in self.services.values():
            service.close()
        # The connections' tasks end.
        await asyncio.sleep(0.2)

    async def apply(self, manifests: list[Manifest]) -> None:
        """Make what manifests describe; pods start, and nobody waits for them."""
        for manifest in manifests:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            self._objects[kind, name] = manifest
            if kind == "Secret":
                decoded = {k: base64.b64decode(v).decode() for k, v in manifest["data"].items()}
                self._objects[kind, name] = {"data": decoded}
            if kind == "Service":
                self.services[name] = Service(manifest, f"{_NETWORK}.{200 + len(self.services)}")
                if not self.services[name].headless:
                    await self.services[name].serve()
        for manifest in manifests:
            if manifest["kind"] in {"StatefulSet", "Deployment"}:
                name = manifest["metadata"]["name"]
                self._workloads[name] = manifest
                # Those without a number are scaled.
                scaler = self._objects.get(("HorizontalPodAutoscaler", name))
                least = scaler["spec"]["minReplicas"] if scaler else 1
                for number in range(manifest["spec"].get("replicas", least)):
                    self._add(manifest, number)

    def of(self, workload: str) -> list[Pod]:
        """Return the pods of a StatefulSet or Deployment, which don't end."""
        return [p for p in self.pods if p.name.rpartition("-")[0] == workload and not p.ending]

    async def ready(self) -> None:
        """Wait until all pods are ready and all nodes know it."""
        await self.until(lambda: all(pod.ready for pod in self.pods), "pods are ready")
        await asyncio.sleep(2 * LAG_S)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for something, and tell all if it doesn't come."""
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while not condition():  # noqa: ASYNC110 - most of it is seen from outside alone
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {_DEADLINE_S} s: {what}\n{self.report()}") from None

    async def roll(self, workload: str, count: int | None = None) -> None:
        """Replace pods as after a change of their template: all of them, or some."""
        manifest = self._workloads[workload]
        for pod in list(reversed(self.of(workload)))[:count]:
            if manifest["kind"] == "StatefulSet":
                await self.end(pod)
                self._add(manifest, int(pod.name.rpartition("-")[2]))
            else:  # maxSurge: 1, maxUnavailable: 0
                self._add(manifest, next(self._numbers))
                await self.ready()
                await self.end(pod)
            await self.ready()

    async def scale(self, workload: str, replicas: int) -> None:
        """Add pods, or end the last ones."""
        running = self.of(workload)
        manifest = self._workloads[workload]
        stateful = manifest["kind"] == "StatefulSet"
        for number in range(len(running), replicas):
            self._add(manifest, number if stateful else next(self._numbers))
        await asyncio.gather(*(self.end(pod) for pod in running[replicas:]))
        await self.ready()

    async def end(self, pod: Pod) -> None:
        """End a pod; it must do so by itself within its grace period."""
        assert await pod.end(), f"{pod.name} did not end well\n{self.report()}"
        self._remove(pod)
        self._ended.append(pod)

    def report(self) -> str:
        """Return what pods wrote and what was noticed of them."""
        return "\n".join(
            f"--- {pod.name}: {pod.events[-20:]}\n{pod.log[-4000:]}"
            for pod in [*self._ended[-2:], *self.pods]
        )

    def _add(self, workload: Manifest, number: int) -> None:
        template = workload["spec"]["template"]
        name = f"{workload['metadata']['name']}-{number}"
        metadata = {**template["metadata"], "name": name}
        address = f"{_NETWORK}.{next(self._numbers)}"
        netns = f"{self._namespace}-{name}"
        ip("netns", "add", netns)
        link = f"v{address.rpartition('.')[2]}"
        pair = f"link add {link} type veth peer name eth0 netns {netns}\n"
        ip(lines=f"{pair}link set {link} master pods up\n")
        own = f"address add {address}/24 dev eth0\n"
        ip("-n", netns, lines=f"{own}link set eth0 up\nlink set lo up\n")
        directory = self._directory / f"{name}-{address}"
        directory.mkdir()
        manifest = {"metadata": metadata, "spec": template["spec"]}
        self.pods.append(
            Pod(manifest, address, self._objects, directory, hosts=self._hosts, netns=netns)
        )

    def _remove(self, pod: Pod) -> None:
        self.pods = [each for each in self.pods if each is not pod]
        ip("netns", "delete", f"{self._namespace}-{pod.name}")

    async def _tell_endpoints(self) -> None:
        while True:
            chosen = {name: each.choose(self.pods) for name, each in self.services.items()}
            await asyncio.sleep(LAG_S)
            lines = ["127.0.0.1 localhost", *(f"{HOST} {name}" for name in self.names)]
            for name, pods in chosen.items():
                service = self.services[name]
                service.endpoints = pods
                found = [pod.address for pod in pods] if service.headless else [service.address]
                lines += [f"{address} {name}" for address in found]
            # In place: the pods have the file itself.
            self._hosts.write_text("\n".join(lines) + "\n")


Scenario = Callable[[Cluster], Awaitable[None]]
