"""Links between hosts: who is let in, and what others get and cost."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
import zmq

from tests.wire.link import Link, free_port
from vgate.wire.curve import _TCP, ClientKeys, ServerKeys, new_secret, public_of
from vgate.wire.sockets import Dealer, Router

DEADLINE_S = 20
SERVER, CLIENT, OTHER = new_secret(), new_secret(), new_secret()
KEYS = ClientKeys(CLIENT, public_of(SERVER))
# What a client of ZeroMQ says first, in versions 1 to 3 of its protocol.
GREETINGS = {
    "version 1": b"\x05\x00hello\x06\x00world",
    "version 2": b"\xff" + bytes(7) + b"\x01\x7f\x01\x05\x00\x00\x00\x05hello",
    "no keys": b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL" + bytes(16) + bytes(32),
    "a password": b"\xff" + bytes(7) + b"\x01\x7f\x03\x00PLAIN" + bytes(15) + bytes(32),
    "HTTP": b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "noise": os.urandom(5000),
    "nothing": b"",
}


class Server:
    """A router on a free port that lets `allowed` in."""

    def __init__(self) -> None:
        self.allowed = {public_of(CLIENT)}
        self.port = free_port()
        self.router = Router(self.address, ServerKeys(SERVER, lambda key: key in self.allowed))

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def heard(self, timeout_s: float = DEADLINE_S) -> bytes | None:
        """Return the next payload, if one comes in time."""
        if not self.router.wait(timeout_s):
            return None
        received = self.router.receive()
        assert received is not None
        return received[1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setitem(_TCP, zmq.HANDSHAKE_IVL, 1000)
    server = Server()
    yield server
    server.router.close()


@contextlib.contextmanager
def dealer(address: str, keys: ClientKeys | None) -> Iterator[Dealer]:
    made = Dealer(address, "frontend", keys)
    made.send(b"hello")
    yield made
    made.close(linger_ms=0)


def is_lost(made: Dealer) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if made.disconnected():
            return True
        time.sleep(0.01)
    return False


def test_a_client_with_its_key_is_heard_and_answered(server):
    with dealer(server.address, KEYS) as client:
        assert server.router.wait(DEADLINE_S)
        peer, payload = server.router.receive()
        assert payload == b"hello"
        assert server.router.send(peer, b"welcome")
        deadline = time.monotonic() + DEADLINE_S
        while (answer := client.receive()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert answer == b"welcome"


@pytest.mark.parametrize(
    "keys",
    [ClientKeys(OTHER, public_of(SERVER)), ClientKeys(CLIENT, public_of(OTHER)), None],
    ids=["wrong client", "wrong server", "no keys"],
)
def test_others_are_refused_and_told_so(server, keys):
    with dealer(server.address, keys) as other:
        assert is_lost(other)
        assert server.heard(0.2) is None
    with dealer(server.address, KEYS):
        assert server.heard() == b"hello"


def test_a_key_is_let_in_as_soon_as_it_is_allowed(server):
    server.allowed.clear()
    with dealer(server.address, KEYS) as client:
        assert is_lost(client)
    server.allowed.add(public_of(CLIENT))
    with dealer(server.address, KEYS):
        assert server.heard() == b"hello"


def test_an_error_of_the_list_lets_nobody_in(server):
    server.router.close()
    port = free_port()

    def broken(_key: bytes) -> bool:
        raise RuntimeError

    server.router = Router(f"tcp://127.0.0.1:{port}", ServerKeys(SERVER, broken))
    with dealer(f"tcp://127.0.0.1:{port}", KEYS) as client:
        assert is_lost(client)


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_bytes_without_a_key_get_nothing(server, greeting):
    with socket.create_connection(("127.0.0.1", server.port)) as stranger:
        stranger.sendall(greeting)
        stranger.settimeout(DEADLINE_S)
        answer = b""
        with contextlib.suppress(ConnectionError):
            # It is disconnected, within the time that a handshake may take.
            while data := stranger.recv(4096):
                answer += data
    # Only what every ZeroMQ socket says first: that it speaks version 3 and wants CURVE.
    assert len(answer) <= 64
    assert server.heard(0.1) is None


def test_what_was_recorded_is_of_no_use(server):
    with Link(server.port) as link:
        with dealer(link.address, KEYS):
            assert server.heard() == b"hello"
        (recorded,) = link.sent
        assert len(recorded) > 300
        with socket.create_connection(("127.0.0.1", server.port)) as attacker:
            attacker.settimeout(DEADLINE_S)
            with contextlib.suppress(ConnectionError):
                attacker.sendall(recorded)
                while attacker.recv(4096):
                    pass
    assert server.heard(0.2) is None


def test_a_message_beyond_the_limit_ends_its_connection(server):
    server.router.close()
    keys = ServerKeys(SERVER, lambda _key: True)
    server.router = Router(server.address, keys, max_message_bytes=1 << 20)
    with dealer(server.address, KEYS) as client:
        client.send(bytes(2 << 20))
        assert server.heard() == b"hello"
        assert is_lost(client)
        assert server.heard(0.1) is None


def test_silent_connections_cost_little_and_keep_nobody_out(server):
    process = psutil.Process()
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            stranger.sendall(GREETINGS["version 2"][:10])
        with dealer(server.address, KEYS):
            assert server.heard() == b"hello"
        assert process.memory_info().rss - before < 200 * (128 << 10)


def test_refusals_are_logged_at_a_bounded_rate(server, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(30):
        with dealer(server.address, ClientKeys(OTHER, public_of(SERVER))) as other:
            assert is_lost(other)
    lines = [record.getMessage() for record in caplog.records]
    assert 0 < sum("not allowed" in line for line in lines) <= 10


def test_a_client_that_fails_to_connect_knows():
    with dealer(f"tcp://127.0.0.1:{free_port()}", KEYS) as client:
        assert is_lost(client)


def test_a_lost_client_never_connects_again_by_itself(server):
    """What was lost between two connections of one identity would go unnoticed."""
    with Link(server.port) as link, dealer(link.address, KEYS) as client:
        assert server.heard() == b"hello"
        link.cut()
        assert is_lost(client)
        client.send(b"late")
        assert server.heard(1) is None
        assert link.accepted == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find a silent link sooner than in service."""
    monkeypatch.setitem(_TCP, zmq.HEARTBEAT_IVL, 200)
    monkeypatch.setitem(_TCP, zmq.HEARTBEAT_TIMEOUT, 1500)


@pytest.mark.usefixtures("impatient")
def test_a_link_that_delivers_nothing_is_found(server):
    with Link(server.port) as link, dealer(link.address, KEYS) as client:
        assert server.router.wait(DEADLINE_S)
        peer, _ = server.router.receive()
        link.hold()
        assert is_lost(client)
        deadline = time.monotonic() + DEADLINE_S
        # So does the other side.
        while server.router.send(peer, b"are you there"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
