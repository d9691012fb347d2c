"""HTTPS: a certificate, clients with certificates, and a renewal that no answer notices."""

import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.authority import OPENSSL, Authority
from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.traffic import CHAT, chat, endless

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@contextmanager
def served(run_dirs: Path, tls: dict[str, Any], **settings: Any) -> Iterator[Instance]:
    instance = Instance(
        run_dirs, dry_run=True, server__workers=2, **settings,
        **{f"server__tls__{name}": value for name, value in tls.items()},
    )  # fmt: skip
    instance.url = instance.url.replace("http:", "https:")
    with instance:
        yield instance


def trusting(authority: Authority, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if client is not None:
        context.load_cert_chain(*client)
    return context


def shown(server: Instance, context: ssl.SSLContext) -> set[str]:
    """Return the serial numbers of the certificates that new connections see."""
    found = set()
    for _ in range(8):
        with (
            httpx.Client(verify=context, timeout=10) as client,
            client.stream("GET", f"{server.url}/health") as answer,
        ):
            connection = answer.extensions["network_stream"].get_extra_info("ssl_object")
            found.add(connection.getpeercert()["serialNumber"])
    return found


def container_health(server: Instance) -> int:
    """Return the exit status of the images' health check."""
    command = [sys.executable, "-I", str(ROOT / "deploy" / "docker" / "health.py")]
    environment = {"VGATE_SERVER__PORT": str(server.port)}
    return subprocess.run(command, env=environment, timeout=30, check=False).returncode


def renew(authority: Authority, name: str, pair: tuple[Path, Path]) -> None:
    """Write a new pair in place of the one that is served."""
    for new, old in zip(authority.sign(name), pair, strict=True):
        shutil.copyfile(new, old)


@pytest.fixture
def pair(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key that a test may replace."""
    certificate, key = authority.sign("first")
    copies = tmp_path / "server.pem", tmp_path / "server.key"
    shutil.copyfile(certificate, copies[0])
    shutil.copyfile(key, copies[1])
    return copies


def test_no_answer_notices_a_renewal(
    run_dirs: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    context = trusting(authority)
    tls = {"certificate": str(pair[0]), "key": str(pair[1])}
    with served(run_dirs, tls, dry_run__step_ms=10) as server:
        assert f"V-Gate is ready on {server.url}" in server.logs()
        assert container_health(server) == 0
        first = shown(server, context)
        assert len(first) == 1
        answers: list[str | None] = []
        over = threading.Event()

        def ask() -> None:
            # A new connection each, and none of them fails.
            each = httpx.Limits(max_keepalive_connections=0)
            with httpx.Client(verify=context, limits=each, timeout=60) as connections:
                client = server.client(http_client=connections)
                while not over.is_set():
                    answer = client.chat.completions.create(**chat("hi"))
                    answers.append(answer.choices[0].message.content)

        asking = threading.Thread(target=ask)
        asking.start()
        kept = httpx.Client(base_url=server.url, verify=context, timeout=60)
        body = endless("on and on ", max_tokens=1000, stream=True)
        with kept, kept.stream("POST", CHAT, json=body) as stream:
            lines = stream.iter_lines()
            assert next(lines)
            pair[1].write_text("broken")
            wait_until(lambda: "can't be used" in server.logs(), 30, "it is noticed")
            assert shown(server, context) == first
            renew(authority, "second", pair)
            wait_until(lambda: not shown(server, context) & first, 30, "all serve the new one")
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        over.set()
        asking.join()
        assert set(answers) == {"hi"}
        assert len(answers) > 10
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http") + "/health", timeout=10)
        assert server.stop() == 0


def test_clients_with_certificates_and_sighup(
    run_dirs: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    tls = {
        "certificate": str(pair[0]),
        "key": str(pair[1]),
        "client_ca": str(authority.file),
        "reload": False,
    }
    with served(run_dirs, tls) as server:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            httpx.get(f"{server.url}/health", verify=trusting(authority), timeout=10)
        assert container_health(server) == 0
        context = trusting(authority, authority.sign("client"))
        first = shown(server, context)
        # An idle connection neither holds up the renewal nor the end.
        with httpx.Client(base_url=server.url, verify=context, timeout=60) as idle:
            assert idle.get("/health").status_code == 200
            renew(authority, "third", pair)
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not shown(server, context) & first, 30, "all serve the new one")
            assert server.stop() == 0


def test_a_pair_that_does_not_fit_stops_the_start(
    run_dirs: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    _, other = authority.sign("other")
    instance = Instance(
        run_dirs,
        dry_run=True,
        server__tls__certificate=str(pair[0]),
        server__tls__key=str(other),
    ).launch()
    assert instance.process is not None
    try:
        assert instance.process.wait(60) == 2
        assert f"{other} is not the key of {pair[0]}" in instance.logs()
        assert "Traceback" not in instance.logs()
    finally:
        instance.discard()
