"""The sockets for real, over ipc: delivery, order, loss, and the edge-triggered descriptor."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from vgate.wire.sockets import AsyncDealer, Dealer, EndpointError, Router

DEADLINE_S = 20


@pytest.fixture
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Not tmp_path: a test's name in it may make the socket's path too long.
    return f"ipc://{tmp_path_factory.mktemp('s')}/x.sock"


@pytest.fixture
def router(endpoint: str) -> Iterator[Router]:
    router = Router(endpoint)
    yield router
    router.close()


@pytest.fixture
def make_dealer(endpoint: str) -> Iterator[Callable[[], Dealer]]:
    dealers = []

    def make(name: str = "peer") -> Dealer:
        dealers.append(Dealer(endpoint, name))
        return dealers[-1]

    yield make
    for dealer in dealers:
        dealer.close(linger_ms=0)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.001)


def take(router: Router, count: int) -> list[tuple[bytes, bytes]]:
    taken: list[tuple[bytes, bytes]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{len(taken)} of {count} messages came"
        received = router.receive()
        if received is None:
            router.wait(0.1)
        else:
            taken.append(received)
    return taken


def take_from(dealer: Dealer, count: int) -> list[bytes]:
    taken: list[bytes] = []

    def read() -> bool:
        while (payload := dealer.receive()) is not None:
            taken.append(payload)
        return len(taken) >= count

    until(read, f"{count} messages")
    return taken


class TestRouterAndDealer:
    def test_messages_go_both_ways(self, router, make_dealer):
        dealer = make_dealer()
        dealer.send(b"ping")
        ((peer, payload),) = take(router, 1)
        assert payload == b"ping"
        assert router.send(peer, b"pong")
        assert take_from(dealer, 1) == [b"pong"]

    def test_order_is_kept_in_both_directions(self, router, make_dealer):
        dealer = make_dealer()
        sent = [str(n).encode() for n in range(3000)]
        for payload in sent:
            dealer.send(payload)
        received = take(router, len(sent))
        assert [payload for _, payload in received] == sent
        peer = received[0][0]
        assert all(router.send(peer, payload) for payload in sent)
        assert take_from(dealer, len(sent)) == sent

    def test_peers_are_told_apart(self, router, make_dealer):
        # Also two of the same name, such as a worker and its successor.
        dealers = [make_dealer("a"), make_dealer("a"), make_dealer("b")]
        for number, dealer in enumerate(dealers):
            dealer.send(str(number).encode())
        peers = {payload: peer for peer, payload in take(router, 3)}
        assert len(set(peers.values())) == 3
        for number, dealer in enumerate(dealers):
            assert router.send(peers[str(number).encode()], f"for {number}".encode())
            assert take_from(dealer, 1) == [f"for {number}".encode()]

    def test_the_identity_begins_with_the_name(self, router, make_dealer):
        make_dealer("frontend-1").send(b"x")
        ((peer, _),) = take(router, 1)
        assert peer.startswith(b"frontend-1-")

    @pytest.mark.parametrize("size", [0, 1, 64 * 1024, 32 * 1024 * 1024])
    def test_any_size_arrives_whole(self, router, make_dealer, size):
        dealer = make_dealer()
        payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        dealer.send(payload)
        ((peer, received),) = take(router, 1)
        assert received == payload
        assert router.send(peer, payload)
        assert take_from(dealer, 1) == [payload]

    def test_nothing_to_receive_does_not_wait(self, router, make_dealer):
        assert router.receive() is None
        assert make_dealer().receive() is None
        assert router.wait(0) is False

    def test_waiting_ends_with_a_message(self, router, make_dealer):
        make_dealer().send(b"x")
        assert router.wait(DEADLINE_S)

    def test_what_is_sent_before_the_bind_is_delivered_after_it(self, endpoint, make_dealer):
        dealer = make_dealer()
        for n in range(100):
            dealer.send(str(n).encode())
        router = Router(endpoint)
        try:
            payloads = [payload for _, payload in take(router, 100)]
            assert payloads == [str(n).encode() for n in range(100)]
        finally:
            router.close()

    def test_what_is_sent_before_closing_is_handed_over(self, router, endpoint):
        dealer = Dealer(endpoint, "leaving")
        dealer.send(b"goodbye")
        dealer.close()
        assert [payload for _, payload in take(router, 1)] == [b"goodbye"]

    def test_sending_to_a_stranger_fails(self, router):
        assert router.send(b"nobody", b"x") is False

    def test_sending_to_a_peer_that_left_fails(self, router, endpoint):
        dealer = Dealer(endpoint, "leaving")
        dealer.send(b"hello")
        ((peer, _),) = take(router, 1)
        assert router.send(peer, b"x")
        dealer.close()
        until(lambda: not router.send(peer, b"x"), "the loss shows")

    def test_a_peer_that_stands_still_is_given_up(self, router, endpoint):
        # Its queue is bounded: past it, sending fails instead of filling our memory.
        program = (
            "import sys; from vgate.wire.sockets import Dealer; d = Dealer(sys.argv[1], 'x'); "
        )
        program += "d.send(b'hello'); sys.stdin.read()"
        peer_process = subprocess.Popen(
            [sys.executable, "-c", program, endpoint], stdin=subprocess.PIPE
        )
        try:
            ((peer, _),) = take(router, 1)
            peer_process.send_signal(signal.SIGSTOP)
            payload = b"x" * 1024
            accepted = next((n for n in range(100_000) if not router.send(peer, payload)), None)
            assert accepted is not None
            # Tens of seconds of an engine's steps fit.
            assert accepted >= 20_000
        finally:
            peer_process.kill()
            peer_process.communicate()

    def test_a_dealer_notices_that_the_router_is_gone(self, endpoint, make_dealer):
        router = Router(endpoint)
        dealer = make_dealer()
        dealer.send(b"x")
        take(router, 1)
        assert not dealer.disconnected()
        router.close()
        until(dealer.disconnected, "the loss shows")
        assert not dealer.disconnected(), "it is told once"

    def test_a_router_that_never_was_is_no_loss(self, make_dealer, endpoint):
        dealer = make_dealer()
        dealer.send(b"x")
        router = Router(endpoint)
        try:
            take(router, 1)
            assert not dealer.disconnected()
        finally:
            router.close()

    def test_what_is_sent_together_arrives_one_by_one_and_in_order(self, router, make_dealer):
        one, other = make_dealer(), make_dealer()
        one.send(b"a", b"b", b"c")
        assert [payload for _, payload in take(router, 3)] == [b"a", b"b", b"c"]
        one.send(b"d", b"e")
        ((peer, first),) = take(router, 1)
        other.send(b"x")
        # What was begun comes before what is next, and the wait knows of it.
        assert router.wait(0)
        assert (first, router.receive()) == (b"d", (peer, b"e"))
        assert [payload for _, payload in take(router, 1)] == [b"x"]

    def test_what_a_turn_of_the_loop_sends_leaves_together(self, router, endpoint):
        async def main(loop):
            ears = Ears(loop, endpoint)
            sent = []
            ears.dealer._dealer.send = lambda *payloads: sent.append(payloads)
            for n in range(3):
                ears.dealer.send(b"%d" % n)
            assert sent == []
            await asyncio.sleep(0)
            assert sent == [(b"0", b"1", b"2")]
            ears.dealer.close(drop=True)

        run(main)


class TestEndpoints:
    @pytest.mark.parametrize("make", [Router, lambda endpoint: Dealer(endpoint, "x")])
    def test_a_path_that_is_too_long_is_refused(self, make):
        with pytest.raises(EndpointError, match=r"longer than 107 bytes.*server\.run_dir"):
            make("ipc:///tmp/" + "x" * 110)

    @pytest.mark.parametrize("make", [Router, lambda endpoint: Dealer(endpoint, "x")])
    def test_bytes_count_and_not_characters(self, make):
        with pytest.raises(EndpointError, match="longer than 107 bytes"):
            make("ipc:///tmp/" + "ü" * 60)

    @pytest.mark.parametrize("make", [Router, lambda endpoint: Dealer(endpoint, "x")])
    def test_a_missing_directory_is_refused(self, make, tmp_path):
        with pytest.raises(EndpointError, match="does not exist"):
            make(f"ipc://{tmp_path}/no/x.sock")

    def test_a_path_of_107_bytes_works(self, tmp_path_factory):
        directory = str(tmp_path_factory.mktemp("s"))
        path = f"{directory}/{'x' * (107 - len(directory) - 1)}"
        router = Router(f"ipc://{path}")
        dealer = Dealer(f"ipc://{path}", "x")
        dealer.send(b"x")
        try:
            take(router, 1)
        finally:
            dealer.close()
            router.close()

    def test_a_directory_that_is_not_writable_is_an_error(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "x").mkdir()
        with pytest.raises(EndpointError, match="cannot bind"):
            Router(f"ipc://{tmp_path}/d/x")


class Ears:
    """An AsyncDealer with what it heard."""

    def __init__(self, loop, endpoint, on_message=lambda _dealer, _payload: None):
        self.heard: list[bytes] = []
        self.batches: list[int] = []
        self.heard_at_loss: list[int] = []
        self._on_message = on_message
        self.dealer = AsyncDealer(
            loop, endpoint, "ears", on_batch=self._on_batch, on_lost=self._on_lost
        )

    def _on_batch(self, batch):
        self.batches.append(len(batch))
        for payload in batch:
            self.heard.append(payload)
            self._on_message(self.dealer, payload)

    @property
    def lost(self):
        return len(self.heard_at_loss)

    def _on_lost(self):
        self.heard_at_loss.append(len(self.heard))

    async def wait_for(self, condition, what):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}; heard {len(self.heard)}"
            await asyncio.sleep(0.001)


def run(main):
    """Run a coroutine function under a deadline, on a loop of its own."""

    async def bounded():
        async with asyncio.timeout(60):
            await main(asyncio.get_running_loop())

    asyncio.run(bounded())


class TestAsyncDealer:
    def test_a_conversation(self, router, endpoint):
        async def main(loop):
            ears = Ears(loop, endpoint)
            ears.dealer.send(b"ping")
            ((peer, payload),) = await asyncio.to_thread(take, router, 1)
            assert payload == b"ping"
            router.send(peer, b"pong")
            await ears.wait_for(lambda: ears.heard, "the answer")
            assert ears.heard == [b"pong"]
            ears.dealer.close()

        run(main)

    def test_a_burst_arrives_while_the_reader_sends(self, router, endpoint):
        # Sending processes the socket's signals, so an arrival could go unnoticed for good: the
        # descriptor is edge-triggered. Every message heard is answered at once to provoke that.
        count = 10_000

        async def main(loop):
            ears = Ears(loop, endpoint, on_message=lambda dealer, payload: dealer.send(payload))
            ears.dealer.send(b"hello")
            ((peer, _),) = await asyncio.to_thread(take, router, 1)
            sent = [str(n).encode() for n in range(count)]

            def serve():
                answers = []
                for payload in sent:
                    assert router.send(peer, payload)
                    while (received := router.receive()) is not None:
                        answers.append(received[1])
                return answers + [p for _, p in take(router, count - len(answers))]

            answers = await asyncio.to_thread(serve)
            assert answers == sent
            assert ears.heard == sent
            ears.dealer.close()

        run(main)

    def test_no_arrival_is_lost_between_single_exchanges(self, router, endpoint):
        # One message in flight at a time: if its signal is swallowed nothing follows it.
        rounds = 2000

        async def main(loop):
            def answer(dealer, payload):
                dealer.send(b"noise")
                dealer.send(payload)

            ears = Ears(loop, endpoint, on_message=answer)
            ears.dealer.send(b"hello")
            ((peer, _),) = await asyncio.to_thread(take, router, 1)

            def play():
                for n in range(rounds):
                    router.send(peer, str(n).encode())
                    assert take(router, 2)[1] == (peer, str(n).encode())

            await asyncio.to_thread(play)
            ears.dealer.close()

        run(main)

    def test_what_arrived_before_it_was_watched_is_read(self, router, endpoint):
        async def main(loop):
            ears = Ears(loop, endpoint)
            ears.dealer.send(b"hello")
            await asyncio.sleep(0)
            # The loop stands still while the answer arrives.
            ((peer, _),) = take(router, 1)
            router.send(peer, b"early")
            until(lambda: ears.dealer._dealer.readable, "the answer arrives")
            await ears.wait_for(lambda: ears.heard, "the answer")
            ears.dealer.close()

        run(main)

    def test_a_flood_is_read_in_bounded_batches(self, router, endpoint):
        count = 2000

        async def main(loop):
            ears = Ears(loop, endpoint)
            ears.dealer.send(b"hello")
            await asyncio.sleep(0)
            ((peer, _),) = take(router, 1)
            for n in range(count):
                router.send(peer, str(n).encode())
            await ears.wait_for(lambda: len(ears.heard) == count, "all of the flood")
            assert ears.heard == [str(n).encode() for n in range(count)]
            assert max(ears.batches) <= 256
            ears.dealer.close()

        run(main)

    def test_a_lost_peer_is_told_once_and_after_its_last_words(self, endpoint):
        async def main(loop):
            router = Router(endpoint)
            ears = Ears(loop, endpoint)
            ears.dealer.send(b"hello")
            ((peer, _),) = await asyncio.to_thread(take, router, 1)
            for n in range(500):
                router.send(peer, str(n).encode())
            router.close()
            await ears.wait_for(lambda: ears.lost, "the loss")
            assert ears.heard_at_loss == [500]
            ears.dealer.close()

        run(main)

    def test_after_a_loss_a_new_one_reaches_the_successor(self, endpoint):
        async def main(loop):
            router = Router(endpoint)
            ears = Ears(loop, endpoint)
            ears.dealer.send(b"first")
            await asyncio.to_thread(take, router, 1)
            router.close()
            await ears.wait_for(lambda: ears.lost, "the loss")
            # Said to the dead one: its successor must not hear it.
            ears.dealer.send(b"stale")
            ears.dealer.close(drop=True)
            successor = Router(endpoint)
            again = Ears(loop, endpoint)
            again.dealer.send(b"fresh")
            try:
                ((_, payload),) = await asyncio.to_thread(take, successor, 1)
                assert payload == b"fresh"
                assert successor.receive() is None
            finally:
                again.dealer.close()
                successor.close()

        run(main)

    def test_closing_ends_all_calls_and_may_be_repeated(self, router, endpoint):
        async def main(loop):
            ears = Ears(loop, endpoint)
            ears.dealer.send(b"hello")
            ((peer, _),) = await asyncio.to_thread(take, router, 1)
            ears.dealer.close()
            ears.dealer.close()
            router.send(peer, b"late")
            for _ in range(10):
                await asyncio.sleep(0)
            assert ears.heard == []
            assert ears.lost == 0

        run(main)

    def test_it_may_be_closed_while_it_is_called(self, router, endpoint):
        async def main(loop):
            ears = Ears(loop, endpoint, on_message=lambda dealer, _payload: dealer.close(drop=True))
            ears.dealer.send(b"hello")
            ((peer, _),) = await asyncio.to_thread(take, router, 1)
            router.send(peer, b"a")
            await ears.wait_for(lambda: ears.heard, "the message")
            for _ in range(10):
                await asyncio.sleep(0)

        run(main)
