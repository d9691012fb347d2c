"""One request over a pool, with every way in which a server may answer it."""

import asyncio
import contextlib
import json

import pytest

from bench.load.asking import asked
from bench.load.connection import Pool
from bench.load.target import Target

REFUSED = b'{"error":{"message":"busy"}}'
CASES = {
    "/right": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "/refused": b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n%s" % (len(REFUSED), REFUSED),
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    "/no_http": b"SSH-2.0-x\r\n\r\n",
}


def ask(*paths, limit_s=20.0):
    """Ask a server for each path over one pool; return the outcomes and what the server read."""
    read, serving = [], []

    async def serve(reader, writer):
        serving.append(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                path = head.split()[1].decode()
                read.append((path, body, b"Authorization: Bearer sk-x\r\n" in head))
                if path in CASES:
                    writer.write(CASES[path])
                if path not in {"/right", "/refused", "/never"}:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = Target("127.0.0.1", port, tls=False, prefix="", addresses=("127.0.0.1",))
        pool, found = Pool(target, keepalive=True), []
        for path in paths:
            try:
                answer = await asked(pool, path, {"a": path}, key="sk-x", limit_s=limit_s)
                found.append(bytes(answer.body))
            except (OSError, TimeoutError) as error:
                found.append(type(error))
        pool.close()
        server.close()
        await asyncio.gather(*serving)
        return found

    return asyncio.run(main()), read


def test_answers_and_the_servers_errors_are_returned():
    found, read = ask("/right", "/refused", "/right")
    assert found == [b"{}", REFUSED, b"{}"]
    assert read == [(path, {"a": path}, True) for path in ("/right", "/refused", "/right")]


@pytest.mark.parametrize("path", ["/cut", "/no_http", "/closed"])
def test_a_broken_connection_is_an_error_and_the_pool_goes_on(path):
    found, _ = ask(path, "/right")
    assert issubclass(found[0], ConnectionError)
    assert found[1] == b"{}"


def test_an_answer_that_does_not_end_in_time_is_another():
    found, _ = ask("/never", limit_s=0.05)
    assert found == [TimeoutError]
