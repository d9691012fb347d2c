"""Two gateways and two engines' hosts: links that are slow, lossy and cut, and strangers.

`VGATE_HOSTS_SECONDS` makes the faults go on for so long; the default is a short run.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.instance import ROOT, wait_until
from tests.e2e.network import Host, Network, missing
from vgate.wire.link_keys import make_keys

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

GATEWAYS, ENGINES = (0, 1), (2, 3)
STRANGER = 4
LONG_S = float(os.environ.get("VGATE_HOSTS_SECONDS", "0"))
# Long enough for a cut link to be noticed, which takes less than two seconds.
_CUT_S = 2.9
# A stranger tries to say hello over TCP and by ZeroMQ, and prints what it gets.
_STRANGER = """
import socket, sys, time
from vgate.wire.codec import encode
from vgate.wire.curve import ClientKeys, new_secret, public_of
from vgate.wire.messages import PROTOCOL_VERSION, Hello
from vgate.wire.sockets import Dealer
host, engine = sys.argv[1], bytes.fromhex(sys.argv[2])
got = 0
for keys in (None, ClientKeys(new_secret(), engine), ClientKeys(new_secret(), bytes(32))):
    dealer = Dealer(f"tcp://{host}:5710", "stranger", keys)
    dealer.send(encode(Hello(PROTOCOL_VERSION, "stranger")))
    time.sleep(0.5)
    got += dealer.receive() is not None
    dealer.close(linger_ms=0)
for port in range(5700, 5720):
    with socket.socket() as probe:
        probe.settimeout(0.2)
        if not probe.connect_ex((host, port)):
            probe.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n" * 50)
print(got)
"""


class Place(NamedTuple):
    network: Network
    hosts: dict[int, Host]
    keys: Path

    def clients(self, gateway: int, count: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.e2e.host_clients", self.hosts[gateway].url]
        return subprocess.Popen(
            [*self.network.inside(gateway), *command, str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def on(self, host: int, *command: str) -> str:
        run = [*self.network.inside(host), *command]
        return subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    def ready(self, gateway: int) -> bool:
        program = "import httpx, sys; print(httpx.get(sys.argv[1]).text)"
        url = f"{self.hosts[gateway].url}/ready"
        text = self.on(gateway, sys.executable, "-c", program, url)
        return bool(json.loads(text)["ready"])


@pytest.fixture(scope="module")
def place(run_dirs: Path, tiny_model_dir: Path) -> Iterator[Place]:
    keys = run_dirs / "keys"
    make_keys(keys)
    common: dict[str, Any] = {
        "engine_link__keys": str(keys),
        "dry_run__step_ms": 10,
        "model__served_model_name": "tiny",
    }
    # Frontends get tokenizer and template from the engines alone.
    has, lacks = {"model__model_id": str(tiny_model_dir)}, {"model__model_id": "/not/here"}
    with Network(5, {"engines": list(ENGINES)}) as network:
        hosts = {host: Host(network, host, "engine", run_dirs, **common, **has) for host in ENGINES}
        for host in GATEWAYS:
            engines = [{"address": "tcp://engines:5710"}]
            hosts[host] = Host(
                network,
                host,
                "frontend",
                run_dirs,
                engines=engines,
                server__workers=1,
                **common,
                **lacks,
            )
        try:
            for host in hosts.values():
                host.launch()
            for host in hosts.values():
                host.wait_ready()
            yield Place(network, hosts, keys)
        finally:
            for host in hosts.values():
                host.discard()


def told(clients: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = clients.communicate("", timeout=120)
    found: dict[str, Any] = json.loads(out)
    return found


def test_both_gateways_use_both_engines(place):
    for gateway in GATEWAYS:
        log = place.hosts[gateway].logs
        for engine in ENGINES:
            address = f"address=tcp://{place.network.address(engine)}:5710"
            told = f"connected to an engine on another host {address}"
            wait_until(lambda log=log, told=told: told in log(), 20, told)


def test_probes_ask_the_engines_host(place):
    host = place.hosts[ENGINES[0]]
    for probe in ("ready", "live"):
        command = [*host.command()[:-1], "--probe", probe]
        done = subprocess.run(command, cwd=ROOT, env=host.environment(), check=False)
        assert done.returncode == 0


def test_strangers_get_nothing(place):
    engine = (place.keys / "engine.pub").read_text().strip()
    address = place.network.address(ENGINES[0])
    got = place.on(STRANGER, sys.executable, "-c", _STRANGER, address, engine)
    assert got == "0\n"
    wait_until(lambda: "refused" in place.hosts[ENGINES[0]].logs(), 10, "it is logged")


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 180)
def test_links_that_are_slow_lossy_and_cut_lose_and_double_nothing(place):
    network = place.network
    pairs = [(gateway, engine) for gateway in GATEWAYS for engine in ENGINES]
    clients = {gateway: place.clients(gateway, 12) for gateway in GATEWAYS}
    ends_at = time.monotonic() + LONG_S
    try:
        time.sleep(0.5)
        for pair in pairs:
            network.link(*pair, delay_s=0.05, loss=0.01)
        time.sleep(1.5)
        # One link of each gateway, and so one of each engine, at the same time.
        for crossed in ((pairs[0], pairs[3]), (pairs[1], pairs[2])):
            for pair in crossed:
                network.link(*pair, cut=1)
            time.sleep(_CUT_S)
            for pair in crossed:
                network.link(*pair)
            time.sleep(0.5)
        while time.monotonic() < ends_at:
            pair = random.choice(pairs)
            network.link(*pair, cut=random.random() < 0.5, delay_s=0.05, loss=0.02)
            time.sleep(random.uniform(0.2, 8))
            network.link(*pair, delay_s=random.choice([0, 0.05]), loss=random.choice([0, 0.01]))
    finally:
        for pair in pairs:
            network.link(*pair)
    seen = {gateway: told(one) for gateway, one in clients.items()}
    print(seen)
    for one in seen.values():
        assert one["wrong"] == []
        assert one["failed"] == []
        assert one["right"] > 5
    for gateway in GATEWAYS:
        wait_until(lambda gateway=gateway: place.ready(gateway), 20, "it is ready")
        assert "the link to the engine was cut" in place.hosts[gateway].logs()


def test_an_engine_that_is_told_to_end_finishes_and_the_rest_goes_elsewhere(place):
    clients = place.clients(GATEWAYS[0], 8)
    time.sleep(1)
    assert place.hosts[ENGINES[0]].stop() == 0
    time.sleep(0.5)
    seen = told(clients)
    assert (seen["wrong"], seen["failed"]) == ([], [])
    assert seen["right"] > 0
    for host in place.hosts.values():
        problem = host.has_problem()
        assert problem is None, problem
