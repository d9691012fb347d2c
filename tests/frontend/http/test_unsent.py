"""Who takes nothing, or too little, is cut; who takes what there is, is not."""

import asyncio
import contextlib
import socket
import time
from collections import Counter

import pytest

from tests.frontend.gateway import until
from vgate.frontend.http import unsent as unsent_module
from vgate.frontend.http.unsent import Unsent

MIB = 1 << 20


class Exchange:
    """A connection whose server side has an unbounded queue, as granian's."""

    def __init__(self, unsent, *, streams=True, size=0):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.server, (host, port) = listener.accept()
        self.client.setblocking(False)
        self.server.setblocking(False)
        self.queue = bytearray()
        self.taken = 0
        self.is_cut = False
        self.write = self._write
        divert = self.divert if streams else None
        self.sending = unsent.begin(f"{host}:{port}", "r", time.monotonic(), divert, size)
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._pump())

    def divert(self, through):
        self.write = through(self.write)

    def _write(self, data):
        self.queue += data

    async def _pump(self):
        """Do as hyper does: fill the socket whenever there is room."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.001)
            if self.queue:
                part = bytes(self.queue[:MIB])
                try:
                    await loop.sock_sendall(self.server, part)
                except OSError:
                    self.is_cut = True
                    self.server.close()
                    return
                del self.queue[:MIB]

    def read(self, most):
        with contextlib.suppress(BlockingIOError):
            self.taken += len(self.client.recv(most))

    async def close(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        self.server.close()
        self.client.close()


@pytest.fixture
def play():
    """Runs a scenario with a function that makes exchanges."""

    def run(scenario, *, timeout_s=0.4, request_s=60.0, max_bytes=64 * MIB):
        made = []

        async def main():
            unsent = Unsent(asyncio.get_running_loop(), timeout_s, request_s, max_bytes)

            def make(**options):
                made.append(Exchange(unsent, **options))
                return made[-1]

            async with asyncio.timeout(60):
                await scenario(unsent, make)
                for exchange in made:
                    await exchange.close()
                await until(lambda: not unsent._sendings, "nothing is watched any more")

        asyncio.run(main())

    return run


async def reset(exchange):
    """Wait until the client sees that it is cut, not a clean end."""
    await until(lambda: exchange.is_cut, "the server's side has ended")
    received = None
    while received != b"":
        try:
            received = exchange.client.recv(MIB)
        except ConnectionResetError:
            return
    pytest.fail("the answer looks complete")


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_takes_nothing_is_cut(play, streams):
    async def scenario(_unsent, make):
        stuck, other = make(streams=streams, size=0 if streams else 16 * MIB), make()
        stuck.write(bytes(16 * MIB))
        if not streams:
            stuck.sending.finish()
        while not stuck.is_cut:
            other.write(b"x" * 1000)
            await asyncio.sleep(0.005)
            other.read(MIB)
        await reset(stuck)
        assert not other.is_cut

    play(scenario)


def test_a_slow_client_that_goes_on_is_not_cut(play):
    async def scenario(_unsent, make):
        slow = make()
        slow.write(bytes(16 * MIB))
        slow.sending.finish()
        until_ = time.monotonic() + 2
        while time.monotonic() < until_:
            slow.read(65536)
            await asyncio.sleep(0.02)
        assert not slow.is_cut
        assert slow.taken < 16 * MIB

    play(scenario)


def test_a_stream_that_runs_away_from_its_reader_is_cut(play):
    async def scenario(unsent, make):
        slow = make()
        slow.write(bytes(8 * MIB))  # more than the kernel takes
        await until(lambda: slow.write != slow._write, "its writes are counted")
        while not slow.is_cut:
            slow.read(4096)
            slow.write(bytes(MIB))
            assert len(slow.queue) < 1000 * MIB
            await asyncio.sleep(0.02)
        await reset(slow)

    play(scenario, timeout_s=1, max_bytes=16 * MIB)


def test_the_furthest_behind_of_many_is_cut_first(play):
    async def scenario(_unsent, make):
        most, *others = (make(size=size, streams=False) for size in (40 * MIB, *[8 * MIB] * 3))
        for exchange in (most, *others):
            exchange.write(bytes(8 * MIB))
            exchange.sending.finish()
        while not most.is_cut:
            for exchange in (most, *others):
                exchange.read(4096)
            await asyncio.sleep(0.02)
        assert not any(exchange.is_cut for exchange in others)

    # Together at most 16 times as much.
    play(scenario, timeout_s=4, max_bytes=3 * MIB)


def test_an_answer_must_have_been_sent_in_time(play):
    async def scenario(_unsent, make):
        slow = make()
        slow.write(bytes(16 * MIB))
        while not slow.is_cut:
            slow.read(4096)
            await asyncio.sleep(0.02)
        await reset(slow)

    play(scenario, timeout_s=1, request_s=0.5)


def test_many_connections_are_looked_at_in_many_turns(play, monkeypatch):
    monkeypatch.setattr(unsent_module, "_STEP_DESCRIPTORS", 5)
    looks, turn = Counter(), 0
    progress = unsent_module._progress

    def counted(descriptor):
        looks[turn] += 1
        return progress(descriptor)

    monkeypatch.setattr(unsent_module, "_progress", counted)

    async def scenario(_unsent, make):
        nonlocal turn
        begun = [make(size=1000) for _ in range(40)]
        while sum(looks.values()) < len(begun):
            turn += 1
            await asyncio.sleep(0)
        # An answer that begins during a sweep is watched by the next one.
        make()
        assert max(looks.values()) <= 10
        for exchange in begun:
            exchange.sending.finish()
            assert not exchange.is_cut

    play(scenario)
