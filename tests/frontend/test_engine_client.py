"""The connection to the engine, against a router that the test plays the engine on."""

from __future__ import annotations

import asyncio

import pytest

from tests.frontend.gateway import until
from vgate.errors import EngineUnavailableError, OverloadedError
from vgate.frontend.engine_client import EngineClient
from vgate.frontend.sequence import Sequence
from vgate.wire.codec import decode_to_engine, encode, pack_token_ids
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Delta,
    Failure,
    Failures,
    Generate,
    Goodbye,
    Hello,
    ModelInfo,
    Refused,
    Status,
    Step,
    Welcome,
)
from vgate.wire.sampling import DEFAULTS
from vgate.wire.sockets import Router

INFO = ModelInfo(["m"], None, 100, 4, 1000, 1, "fake")
PROMPT = pack_token_ids([1, 2])


class Listener:
    """An answer that notes what came."""

    def __init__(self):
        self.touched = False
        self.flushes = 0

    def flush(self):
        self.flushes += 1


class Play:
    """A client, and the engine that the test speaks for."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.router = Router(endpoint)
        self.loop = asyncio.get_running_loop()
        self.models, self.losses = [], 0
        self.inbox: list[tuple[bytes, object]] = []
        self.client = EngineClient(
            self.loop, endpoint, "f", on_model=self.models.append, on_lost=self.lost
        )

    def lost(self):
        self.losses += 1

    def drain(self):
        while (received := self.router.receive()) is not None:
            self.inbox.append((received[0], decode_to_engine(received[1])))

    async def hear(self, kind):
        """Wait for the next message of a kind; what came before it is dropped."""

        def found():
            self.drain()
            while self.inbox:
                peer, message = self.inbox.pop(0)
                if isinstance(message, kind):
                    return peer, message
            return None

        return await until(found, kind.__name__)

    async def connect(self):
        self.peer, _ = await self.hear(Hello)
        self.send(Welcome(PROTOCOL_VERSION, INFO))
        await until(lambda: self.client.connected, "the welcome")
        return self

    def send(self, *messages):
        for message in messages:
            payload = message if isinstance(message, bytes) else encode(message)
            assert self.router.send(self.peer, payload)

    def submit(self, count=1, answer=None):
        answer = answer or Listener()
        sequences = [Sequence(answer, index) for index in range(count)]
        for sequence in sequences:
            message = Generate(self.client.next_id(), PROMPT, DEFAULTS)
            self.client.submit(sequence, message, 60.0)
        return sequences


@pytest.fixture
def play(tmp_path_factory):
    def run(scenario, *, connect=True):
        async def main():
            async with asyncio.timeout(60):
                play = Play(f"ipc://{tmp_path_factory.mktemp('c')}/e.sock")
                try:
                    if connect:
                        await play.connect()
                    await scenario(play)
                finally:
                    if not play.client._closed:
                        play.client.close()
                    play.router.close()

        asyncio.run(main())

    return run


def test_it_introduces_itself_and_learns_the_model(play):
    async def scenario(play):
        assert not play.client.connected
        _, hello = await play.hear(Hello)
        assert hello == Hello(PROTOCOL_VERSION, "f")
        with pytest.raises(EngineUnavailableError):
            play.submit()

    play(scenario, connect=False)

    async def connected(play):
        assert play.models == [INFO]

    play(connected)


def test_steps_reach_their_sequences_and_an_answer_hears_once_a_batch(play):
    async def scenario(play):
        (first, second), (other,) = play.submit(2), play.submit()
        for sequence in (first, second, other):
            _, message = await play.hear(Generate)
            assert message.id == sequence.id
        play.send(
            Step([first.id, 999, other.id], [1, 9, 3], [Delta(second.id, [2], None, 7)]),
            b"\xff malformed",
            Status(3, 0, 0.5),
        )
        await until(lambda: play.client.status.running == 3, "the status")
        assert (first.pending, second.pending, other.pending) == ([1], [2], [3])
        assert second.cached_tokens == 7
        assert first.answer.flushes == other.answer.flushes == 1
        play.send(Step(deltas=[Delta(first.id, [4], "length"), Delta(second.id, [5], "stop")]))
        await until(lambda: second.finish_reason, "the end")
        assert (first.finish_reason, second.finish_reason) == ("length", "stop")
        assert play.client.in_flight == 1

    play(scenario)


def test_a_failure_ends_its_sequence(play):
    async def scenario(play):
        (failed, kept) = play.submit(2)
        play.send(Failures([Failure(failed.id, "overloaded", "full", 3.0), Failure(999, "x", "y")]))
        await until(lambda: failed.error, "the failure")
        assert type(failed.error) is OverloadedError
        assert failed.error.retry_after_s == 3.0
        assert kept.error is None
        assert play.client.in_flight == 1

    play(scenario)


def test_an_abort_is_sent_once_and_silences_what_follows(play):
    async def scenario(play):
        sequences = play.submit(2)
        play.client.abort(sequences)
        play.client.abort(sequences)
        _, message = await play.hear(Abort)
        assert message == Abort([s.id for s in sequences])
        play.send(Step(deltas=[Delta(sequences[0].id, [1], "stop")]), Status(7, 0, 0.0))
        await until(lambda: play.client.status.running == 7, "the status")
        assert sequences[0].pending == []
        assert play.client.in_flight == 0
        play.drain()
        assert not any(isinstance(m, Abort) for _, m in play.inbox)

    play(scenario)


def test_numbers_are_never_used_twice_even_on_a_new_connection(play):
    async def scenario(play):
        numbers = [s.id for s in play.submit(3)]
        play.router.close()
        await until(lambda: play.losses, "the loss")
        play.router = Router(play.endpoint)
        await play.connect()
        numbers += [s.id for s in play.submit(3)]
        assert len(set(numbers)) == 6

    play(scenario)


def test_a_lost_engine_ends_all_sequences_and_its_successor_knows_none(play):
    async def scenario(play):
        sequences = play.submit(3)
        old = play.peer
        play.router.close()
        # The loss has not shown yet, so these wait in the socket for whoever binds next.
        sequences += play.submit(3, sequences[0].answer)
        await until(lambda: play.losses, "the loss")
        assert all(type(s.error) is EngineUnavailableError for s in sequences)
        assert sequences[0].answer.flushes == 1
        assert not play.client.connected
        assert play.client.in_flight == 0
        play.router = Router(play.endpoint)
        await play.connect()
        assert play.peer != old
        play.drain()
        assert not any(isinstance(m, Generate) for _, m in play.inbox)
        assert len(play.models) == 2

    play(scenario)


def test_a_refusal_is_kept_as_the_reason_and_it_tries_again(play):
    async def scenario(play):
        play.peer, _ = await play.hear(Hello)
        play.send(Refused(99, "another version"))
        await until(lambda: play.client.refusal, "the refusal")
        assert play.client.refusal == "another version"
        await play.connect()
        assert play.client.refusal is None

    play(scenario, connect=False)


def test_several_refusals_at_once_make_one_new_connection(play):
    # An engine that gave this frontend up answers each of its requests with a refusal.
    async def scenario(play):
        sequences = play.submit(3)
        play.client._on_batch([encode(Refused(PROTOCOL_VERSION, "say hello first"))] * 3)
        assert play.losses == 1
        assert all(type(s.error) is EngineUnavailableError for s in sequences)
        await play.connect()
        assert play.submit()[0].error is None

    play(scenario)


def test_a_deadline_that_passes_ends_the_sequence_on_both_sides(play):
    async def scenario(play):
        answer = Listener()
        sequence = Sequence(answer, 0)
        message = Generate(play.client.next_id(), PROMPT, DEFAULTS)
        play.client.submit(sequence, message, 0.01)
        await until(lambda: sequence.error, "the deadline")
        assert sequence.error.status == 504
        assert answer.flushes == 1
        _, message = await play.hear(Abort)
        assert message == Abort([sequence.id])

    play(scenario)


def test_closing_says_goodbye(play):
    async def scenario(play):
        play.client.close()
        await play.hear(Goodbye)

    play(scenario)
