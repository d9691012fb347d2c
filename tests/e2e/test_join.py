"""Another machine joins a server over HTTPS, serves with it, and is remembered by both."""

import hashlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.authority import OPENSSL, Authority
from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.traffic import CHAT, chat
from tests.wire.link import free_port

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


class Box(Instance):
    """The other machine, with a state directory of its own."""

    def __init__(self, run_dirs: Path, *arguments: str) -> None:
        super().__init__(run_dirs, dry_run=False, server__state_dir=str(run_dirs / "box-state"))
        self._arguments = arguments

    def command(self) -> list[str]:
        return [sys.executable, "-m", "vgate.launcher", "join", *self._arguments]


class Server(Instance):
    """The first machine."""

    def engines(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "vgate.launcher", "engines", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment(), check=True, capture_output=True, text=True
        ).stdout

    def addresses(self) -> int:
        """Return how many engines serve."""
        found = httpx.get(f"{self.url}/admin/engines", verify=False, timeout=5).json()
        return sum(engine["serves"] for engine in found["data"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return Authority(tmp_path_factory.mktemp("ca")).sign("server")


@pytest.fixture(scope="module")
def server(run_dirs: Path, certificate: tuple[Path, Path]) -> Iterator[Server]:
    instance = Server(
        run_dirs,
        dry_run=True,
        server__workers=2,
        server__state_dir=str(run_dirs / "server-state"),
        server__tls__certificate=str(certificate[0]),
        server__tls__key=str(certificate[1]),
    )
    instance.url = instance.url.replace("http:", "https:")
    with instance:
        yield instance


def test_it_joins_serves_is_remembered_and_leaves(server, run_dirs, certificate):
    der = ssl.PEM_cert_to_DER_cert(certificate[0].read_text().split("-\n\n")[0])
    fingerprint = hashlib.sha256(der).hexdigest()
    told = server.engines("invite").split()
    token = told[told.index("--token") + 1]
    assert told[told.index("--fingerprint") + 1] == fingerprint
    listen = "--listen", f"tcp://127.0.0.1:{free_port()}"
    here = server.url, *listen, "--name", "box"

    wrong = Box(run_dirs, *here, "--token", token, "--fingerprint", "a" * 64).launch()
    assert wrong.process.wait(60) == 1
    assert "fingerprint" in wrong.logs()
    wrong.discard()

    with Box(run_dirs, *here, "--token", token, "--fingerprint", fingerprint):
        wait_until(lambda: server.addresses() == 2, 20, "both engines serve")
        texts = [f"to be answered {n}" for n in range(8)]
        for text in texts:
            answer = httpx.post(server.url + CHAT, json=chat(text), verify=False, timeout=20)
            assert answer.json()["choices"][0]["message"]["content"] == text
    wait_until(lambda: server.addresses() == 1, 20, "it has left")

    # Neither side needs to be told again.
    server.stop()
    server.launch()
    with Box(run_dirs, *here) as box:
        server.wait_ready()
        wait_until(lambda: server.addresses() == 2, 20, "both engines serve again")
        assert "box" in server.engines("hosts")
        server.engines("remove", "box")
        wait_until(lambda: server.addresses() == 1, 20, "it is removed")
        assert box.has_problem() is None
    assert server.has_problem() is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("https://127.0.0.1:1", "--token", "x"), "cannot reach https://127.0.0.1:1"),
        (("http://192.0.2.1", "--token", "x"), "--plain-http"),
        (("https://127.0.0.1:2",), "vgate engines invite"),
        (("tcp://a",), "is no server such as"),
    ],
)
def test_what_cannot_be_joined_is_told(run_dirs, arguments, told):
    box = Box(run_dirs, *arguments).launch()
    assert box.process.wait(60) in {1, 2}
    assert told in box.logs()
    box.discard()
