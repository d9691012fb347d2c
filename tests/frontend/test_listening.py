"""How a frontend leaves its listening socket to another process."""

import os
import socket
import time

import pytest

from tests.e2e.instance import wait_until
from vgate.frontend.listening import Leaving


class Server:
    """Stands for granian's, on a descriptor of its own for a socket that the launcher holds."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = os.dup(listener.fileno())
        self.stopped = False

    def accept(self) -> socket.socket:
        with socket.socket(fileno=os.dup(self.listener)) as listening:
            listening.setblocking(False)
            return listening.accept()[0]

    def stop(self) -> None:
        self.stopped = True


class Loop:
    """Runs what was to come later when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.later: list = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback) -> None:
        self.later.append((delay_s, callback))

    def go_on(self) -> None:
        delay_s, callback = self.later.pop()
        self.now += delay_s
        callback()


@pytest.fixture
def listener():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=5)


def test_what_waits_is_left_to_the_other_process(listener, tmp_path):
    server, loop = Server(listener), Loop()
    with connect(listener):
        Leaving(loop, server, str(tmp_path)).begin()
        with pytest.raises(BlockingIOError):
            server.accept()
        listener.accept()[0].close()
    assert list(tmp_path.iterdir()) == []
    os.close(server.listener)


def test_it_ends_with_its_last_connection(listener, tmp_path):
    server, loop = Server(listener), Loop()
    client = connect(listener)
    accepted = server.accept()
    leaving = Leaving(loop, server, str(tmp_path))
    leaving.begin()
    leaving.begin()
    assert len(loop.later) == 1
    for _ in range(3):
        loop.go_on()
    assert not server.stopped
    accepted.close()
    client.close()
    deadline = time.monotonic() + 10
    while not server.stopped and time.monotonic() < deadline:
        loop.go_on()
    assert server.stopped
    assert loop.later == []
    os.close(server.listener)


def test_it_waits_no_longer_than_hyper_for_a_connection_without_a_request(listener, tmp_path):
    server, loop = Server(listener), Loop()
    with connect(listener):
        accepted = server.accept()
        Leaving(loop, server, str(tmp_path)).begin()
        wait_until(lambda: loop.later and (loop.go_on() or server.stopped), 20, "it stops")
        assert 30 <= loop.now < 32
        accepted.close()
    os.close(server.listener)
