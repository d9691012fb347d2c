"""The chart's manifests, running: pods are killed, replaced and scaled under a load of streams.

Each pod has its own network, root and user, as root can make them; see `cluster` and `pods`. All
scenarios run at the same time. VGATE_TEST_KUBERNETES_S sets how long pods are replaced in each,
with the values' own drains, in place of once with short ones.
"""

import asyncio
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.kubernetes.charts import manifests, values_of
from tests.deploy.kubernetes.cluster import HOST, Cluster, missing, network
from tests.deploy.kubernetes.load import Load
from tests.state_server import StateServer, find_server
from vgate.key_file import KeyFile
from vgate.keys import ApiKey
from vgate.wire.link_keys import make_keys

LONG_S = float(os.environ.get("VGATE_TEST_KUBERNETES_S", "0"))
# Long beside what a busy machine does to the nodes and clients, which are in this process.
DRAIN = {} if LONG_S else {"preStopSeconds": 2, "delaySeconds": 3, "timeoutSeconds": 60}
CLIENTS, WORDS = 12, 8
LIMIT = 20
CONFIG = {
    "dry_run": {"step_ms": 5, "prefill_tokens_per_s": 1e6},
    "server": {"workers": 1},
    "state": {"timeout_ms": 5000},
    # A window that does not end in the test.
    "security": {"rate_limiting": {"window_seconds": 3600}},
}
# What a client sees of a pod that is killed: a lost connection, or an error that its frontend sends
# while the kernel ends its processes.
SHUTTING_DOWN = ("cut: shutting_down", '503: {"error":{"message":"the server is shutting down"')
LOST = ("RemoteProtocolError", "ReadError", "ConnectError", *SHUTTING_DOWN)

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600 + 10 * LONG_S)]


class Run:
    """A cluster with the objects of a file of values, and a load on its Service."""

    def __init__(self, cluster: Cluster, keys: dict[str, str]) -> None:
        self.cluster = cluster
        self.keys = keys
        service = cluster.services["vgate"]
        self.url = f"http://{service.address}:{service.spec['ports'][0]['port']}"
        self.load = Load(self.url, CLIENTS, WORDS, {"Authorization": f"Bearer {keys['load']}"})

    async def more(self, answers: int = CLIENTS) -> None:
        """Wait until so many more answers have come."""
        enough = self.load.done + answers
        await self.cluster.until(lambda: self.load.done >= enough, self.load.summary())

    async def repeat(self, change: Callable[[], Any]) -> None:
        """Change the cluster, once or for as long as set."""
        until = time.monotonic() + LONG_S
        await change()
        while time.monotonic() < until:
            await change()

    def check_nothing_was_cut(self) -> None:
        load = self.load
        assert load.problems == [], f"{load.summary()}\n{self.cluster.report()}"
        print(f"\n{load.summary()}; longest gap {max(load.gaps):.2f} s")

    async def check_limits_are_shared(self) -> None:
        """Send more than a key's limit at once, to all frontends."""
        body = {"model": "", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Authorization": f"Bearer {self.keys['limited']}"}

        async def ask() -> int:
            async with httpx.AsyncClient(trust_env=False, timeout=60, headers=headers) as client:
                answer = await client.post(f"{self.url}/v1/chat/completions", json=body)
                return answer.status_code

        before = await self.decided_alone()
        counts = Counter(await asyncio.gather(*(ask() for _ in range(3 * LIMIT))))
        # None on a machine with time for the server: nobody has to do without it.
        alone = await self.decided_alone() - before
        assert counts.keys() == {200, 429}
        assert LIMIT <= counts[200] <= LIMIT + alone, f"{counts}\n{self.cluster.report()}"

    async def decided_alone(self) -> int:
        """Return how many requests frontends have decided on without the shared server."""
        total = 0
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            for pod in self.cluster.of("vgate-frontend"):
                text = (await client.get(f"http://{pod.address}:8000/metrics")).text
                name = "vgate_state_decisions_without_total"
                found = re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)
                assert found
                total += sum(map(int, map(float, found)))
        return total

    async def kill(self, workload: str) -> None:
        """Kill a pod, and wait until its container serves again."""
        pod = self.cluster.of(workload)[0]
        restarts = pod.restarts
        pod.kill()
        await self.cluster.until(lambda: pod.restarts > restarts and pod.ready, "it is back")
        await self.more()


async def whole_gateways(run: Run) -> None:
    async def change() -> None:
        await run.cluster.roll("vgate", None if LONG_S else 1)
        if LONG_S:
            await run.cluster.scale("vgate", 3)
            await run.cluster.scale("vgate", 2)
        await run.more()

    await run.repeat(change)
    run.check_nothing_was_cut()
    # Who was at a pod that is killed loses the stream, and nobody takes it for complete.
    await run.kill("vgate")


async def frontends_and_engines(run: Run) -> None:
    async def change() -> None:
        # Its streams go on in the other engine.
        await run.kill("vgate-engine")
        await run.cluster.scale("vgate-engine", 1)
        await run.cluster.roll("vgate-frontend", None if LONG_S else 1)
        await run.more()
        if LONG_S:
            await run.cluster.scale("vgate-engine", 3)
            await run.more()
            await run.cluster.roll("vgate-engine")

    await run.repeat(change)
    run.check_nothing_was_cut()
    if SHARED:
        await run.check_limits_are_shared()
    await run.kill("vgate-frontend")


# With a server for shared limits where there is one.
SHARED = find_server() is not None
SCENARIOS = {
    "cpu": (whole_gateways, {}),
    "split-ha" if SHARED else "split": (
        frontends_and_engines,
        {"engine": {"replicas": 2}, "frontend": {"autoscaling": {"minReplicas": 2}}},
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """All scenarios, which have begun."""
    if why := missing():
        pytest.skip(f"no cluster can be run here: {why}")
    with ThreadPoolExecutor(len(SCENARIOS)) as threads:
        yield {
            name: threads.submit(in_network, name, tmp_path_factory.mktemp(f"cluster-{name}"))
            for name in SCENARIOS
        }


def in_network(name: str, directory: Path) -> None:
    prefix = f"vgate-{name}-{os.getpid()}"
    # Pods run as another user.
    for folder in (directory, *directory.parents[:2]):
        folder.chmod(0o755)
    make_keys(directory / "link-keys")
    keys = directory / "keys.jsonl"
    secret_keys = {
        "load": KeyFile(keys).add(ApiKey(name="load", sha256="", rate_limit=1_000_000)),
        "limited": KeyFile(keys).add(ApiKey(name="limited", sha256="", rate_limit=LIMIT)),
    }
    secrets = {
        "vgate-link-keys": {p.name: p.read_text() for p in (directory / "link-keys").iterdir()},
        "vgate-keys": {"keys.jsonl": keys.read_text()},
    }
    scenario, overrides = SCENARIOS[name]
    values = values_of(name, dryRun=True, drain=DRAIN, config=CONFIG, **overrides)

    async def main() -> None:
        async with Cluster(directory, prefix, secrets) as cluster:
            cluster.names.append("valkey")
            await cluster.apply(manifests(values))
            await cluster.ready()
            run = Run(cluster, secret_keys)
            async with run.load:
                await run.more()
                await scenario(run)
            wrong = [each for each in run.load.problems if not each.startswith(LOST)]
            assert wrong == [], cluster.report()

    with network(prefix), contextlib.ExitStack() as stack:
        if name == "split-ha":
            server = StateServer("--bind", HOST, "127.0.0.1", "--protected-mode", "no")
            server.port = 6379
            stack.enter_context(server)
        asyncio.run(main())


@pytest.mark.parametrize("name", SCENARIOS)
def test_pods_come_and_go_and_no_stream_is_cut(outcomes: dict[str, Future[None]], name: str):
    outcomes[name].result()
