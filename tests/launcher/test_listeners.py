"""The listening sockets: one for each frontend, and none where another program listens."""

import socket

import pytest

from tests.e2e.instance import free_port
from vgate.config.schema import Server
from vgate.launcher.listeners import close, listen
from vgate.launcher.run_dir import StartError


def test_connections_wait_in_the_queues_of_all():
    port = free_port()
    listeners = listen(Server(port=port, workers=3))
    clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(64)]
    queued = []
    for listener in listeners:
        count = 0
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
        queued.append(count)
    for client in clients:
        client.close()
    close(listeners)
    assert sum(queued) == 64
    assert min(queued) > 0, queued
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize("shares", [False, True])
def test_a_taken_port_is_refused(shares):
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*--port"):
            listen(Server(port=port, workers=1))


def test_a_host_without_an_address_is_refused():
    with pytest.raises(StartError, match=r"cannot listen on no\.such\.invalid"):
        listen(Server(host="no.such.invalid", workers=1))
