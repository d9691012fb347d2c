"""A pool with one engine over ZeroMQ, against a router that the test plays the engine on."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from tests.frontend.gateway import until
from vgate.errors import EngineUnavailableError, OverloadedError
from vgate.frontend.engines import client
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.output import flushing
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.observe import metrics
from vgate.wire.codec import decode_to_engine, encode, pack_token_ids
from vgate.wire.kv_blocks import KvBlocks, WatchBlocks
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Delta,
    Embedding,
    Embeddings,
    Ending,
    Failure,
    Failures,
    FetchFile,
    FileChunk,
    Generate,
    Goodbye,
    Hello,
    ModelInfo,
    Refused,
    Status,
    Step,
    Welcome,
)
from vgate.wire.parameters import DEFAULTS
from vgate.wire.progress import Timing
from vgate.wire.sockets import Router

INFO = ModelInfo(["m"], [], 100, 4, 1000, 1, "fake")
PROMPT = pack_token_ids([1, 2])


class Listener:
    """An answer that notes what came."""

    def __init__(self):
        self.touched = False
        self.flushes = 0

    def flush(self):
        self.flushes += 1

    def restart(self, sequence):
        if sequence.generated:
            return False
        sequence.clear()
        return True


class Play:
    """A pool, its connection, and the engine that the test speaks for."""

    def __init__(self, endpoint, *, resume=True):
        self.endpoint = endpoint
        self.router = Router(endpoint)
        self.loop = asyncio.get_running_loop()
        self.models, self.losses = [], 0
        self.inbox: list[tuple[bytes, object]] = []
        self.client = EnginePool(
            self.loop,
            on_model=self.models.append,
            on_lost=self.lost,
            survivors=Survivors(enabled=resume),
        )
        self.handle = EngineClient(self.loop, endpoint, "f", self.client)
        self.client.add(self.handle)

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

    async def connect(self, info=INFO):
        self.peer, _ = await self.hear(Hello)
        self.send(Welcome(PROTOCOL_VERSION, info))
        await until(lambda: self.client.connected, "the welcome")
        return self

    def send(self, *messages):
        for message in messages:
            payload = message if isinstance(message, bytes) else encode(message)
            assert self.router.send(self.peer, payload)

    async def restart(self, info=INFO):
        """End as an engine does that is killed, and be the next one."""
        losses = self.losses
        self.router.close()
        await until(lambda: self.losses > losses, "the loss")
        self.inbox.clear()
        self.router = Router(self.endpoint)
        await self.connect(info)

    def submit(self, count=1, answer=None, timeout_s=60.0, sampling=DEFAULTS, **fields):
        answer = answer or Listener()
        sequences = [Sequence(answer, index) for index in range(count)]
        for sequence in sequences:
            message = Generate(self.client.next_id(), PROMPT, sampling, **fields)
            self.client.submit(sequence, message, timeout_s)
        return sequences

    async def settled(self):
        """Wait until all that was sent has been taken."""
        number = self.client.status.running + 1
        self.send(Status(number, 0, 0.0))
        await until(lambda: self.client.status.running == number, "the status")


@pytest.fixture
def play(tmp_path_factory):
    def run(scenario, *, connect=True, resume=True):
        async def main():
            async with asyncio.timeout(60):
                play = Play(f"ipc://{tmp_path_factory.mktemp('c')}/e.sock", resume=resume)
                try:
                    if connect:
                        await play.connect()
                    await scenario(play)
                finally:
                    if not play.handle._closed:
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


def test_nobody_waits_for_an_engine_that_is_removed(play):
    async def scenario(play):
        pool, handle = play.client, play.handle
        asked = [pool.claim(b"s"), handle.progress(), handle.read_file(b"d", 0)]
        waiting = [asyncio.ensure_future(question) for question in asked]
        await play.hear(FetchFile)
        pool.remove(handle)
        async with asyncio.timeout(10):
            claimed, progress, chunk = await asyncio.gather(*waiting, return_exceptions=True)
        assert (claimed, progress, type(chunk)) == ([], {}, EngineUnavailableError)
        assert await handle.claim(b"s") is None

    play(scenario)


def test_plain_tokens_of_many_streams_wait_for_the_next_and_nothing_else_does(play, monkeypatch):
    monkeypatch.setattr(flushing, "_EACH_S", 20.0)
    monkeypatch.setattr(flushing, "_MOST_S", 60.0)

    async def scenario(play):
        first, second, third = sequences = [play.submit()[0] for _ in range(3)]
        for _ in sequences:
            await play.hear(Generate)
        ids = [sequence.id for sequence in sequences]

        async def flushed(*messages):
            before = [sequence.answer.flushes for sequence in sequences]
            play.send(*messages)
            await play.settled()
            return [s.answer.flushes - n for s, n in zip(sequences, before, strict=True)]

        assert await flushed(Step(ids, [1, 1, 1])) == [1, 1, 1]
        assert await flushed(Step(ids, [2, 2, 2])) == [0, 0, 0]
        ended = Step(deltas=[Delta(first.id, [3], "stop")])
        failure = Failures([Failure(second.id, "internal_error", "broken")])
        # What came before the failure is read first.
        assert await flushed(ended, failure) == [1, 2, 0]
        assert (first.pending, first.finish_reason) == ([1, 2, 3], "stop")
        # What came before an engine's death counts.
        before = third.answer.flushes
        play.send(Ending("bye"))
        await until(lambda: play.losses, "the loss")
        assert third.answer.flushes == before + 1

    play(scenario)


@pytest.mark.parametrize("way", ["failure", "deadline"])
def test_an_error_comes_after_the_tokens_that_waited(play, monkeypatch, way):
    monkeypatch.setattr(flushing, "_EACH_S", 20.0)
    monkeypatch.setattr(flushing, "_MOST_S", 60.0)

    async def scenario(play):
        seen = []
        answer = Listener()
        answer.flush = lambda: seen.append((sequence.pending[:], sequence.error is not None))
        (sequence,) = play.submit(answer=answer)
        for token in (1, 2, 3):
            play.send(Step([sequence.id], [token]))
            await play.settled()
        assert seen == [([1], False)]
        if way == "failure":
            play.send(Failures([Failure(sequence.id, "internal_error", "broken")]))
            await play.settled()
        else:
            sequence.deadline = 0.0
            await until(lambda: sequence.error, "the deadline")
        assert seen == [([1], False), ([1, 2, 3], False), ([1, 2, 3], True)]

    play(scenario)


def test_an_end_that_was_read_is_heard_of_even_if_what_follows_it_breaks_something(play):
    async def scenario(play):
        (sequence,) = play.submit()
        end = Step(deltas=[Delta(sequence.id, [1], "stop")])
        blocks = KvBlocks(1, 64, b"12345678", reset=True)
        play.client.on_blocks = None  # can't be called
        with pytest.raises(TypeError):
            play.handle._on_batch([encode(end), encode(blocks)])
        assert sequence.answer.flushes == 1

    play(scenario)


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


def test_an_answer_that_comes_whole_is_read_in_parts(play):
    async def scenario(play):
        (sequence,), (plain,) = play.submit(), play.submit()
        sequence.by_token = True
        for _ in range(2):
            await play.hear(Generate)
        tokens = list(range(1000))
        deltas = [Delta(each.id, tokens, "stop") for each in (sequence, plain)]
        play.send(Step(deltas=deltas))
        await until(lambda: plain.finish_reason, "it has come")
        assert plain.pending == tokens
        await until(lambda: sequence.finish_reason, "all has come")
        assert sequence.pending == tokens
        assert sequence.answer.flushes > 10 > plain.answer.flushes

    play(scenario)


def test_a_removed_engine_stays_until_its_last_answers_are_read(play):
    async def scenario(play):
        gone, left = play.submit(), play.submit()
        for (sequence,) in (gone, left):
            sequence.by_token = True
        for _ in range(2):
            await play.hear(Generate)
        tokens = list(range(500_000))
        play.send(Step(deltas=[Delta(each[0].id, tokens, "stop") for each in (gone, left)]))
        await until(lambda: gone[0].pending or left[0].pending, "some was read")
        play.client.remove(play.handle)
        # Its client leaves.
        play.client.abort(gone)
        del gone[0].answer
        await until(lambda: left[0].finish_reason, "all has come")
        assert left[0].pending == tokens
        assert play.client.in_flight == 0
        await play.hear(Goodbye)

    play(scenario)


def test_a_failure_names_the_request_s_field(play):
    async def scenario(play):
        (failed,) = play.submit(1)
        failed.fields = {"constraint": "text.format"}
        failure = Failure(failed.id, "invalid_value", "no", None, "constraint")
        play.send(Failures([failure]))
        await until(lambda: failed.error, "the failure")
        assert (failed.error.param, failed.error.message) == ("text.format", "`text.format`: no")

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


def test_without_resuming_a_lost_engine_ends_all_and_its_successor_knows_none(play):
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

    play(scenario, resume=False)


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
        play.handle._on_batch([encode(Refused(PROTOCOL_VERSION, "say hello first"))] * 3)
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


def test_a_chunk_that_nobody_waits_for_any_more_is_dropped(play):
    async def scenario(play):
        first = asyncio.ensure_future(play.handle.read_file(b"d", 0))
        await play.hear(FetchFile)
        first.cancel()
        second = asyncio.ensure_future(play.handle.read_file(b"d", 5))
        await play.hear(FetchFile)
        play.send(FileChunk(b"d", 0, b"old"), FileChunk(b"e", 5, b"other"))
        await play.settled()
        assert not second.done()
        play.send(FileChunk(b"d", 5, b"new"), FileChunk(b"d", 5, b"twice"))
        assert await second == b"new"

    play(scenario)


def test_closing_says_goodbye(play):
    async def scenario(play):
        play.client.close()
        await play.hear(Goodbye)

    play(scenario)


def resumed_total():
    return metrics.RESUMED._value.get()


def test_sequences_go_on_in_the_next_engine_under_new_numbers(play):
    async def scenario(play):
        before = resumed_total()
        (begun,), (fresh,) = play.submit(dedup_key=b"x"), play.submit(dedup_key=b"y")
        old = [begun.id, fresh.id]
        play.send(Step([begun.id], [5], [Delta(fresh.id, [6], None, 3, coalesced=True)]))
        await play.settled()
        # The answer has read what came of the first.
        begun.generated, begun.pending = begun.pending, []
        await play.restart()
        messages = [(await play.hear(Generate))[1] for _ in range(2)]
        assert [m.id for m in messages] == [begun.id, fresh.id]
        assert not set(old) & {begun.id, fresh.id}
        assert [m.generated for m in messages] == [pack_token_ids([5]), b""]
        assert [m.dedup_key for m in messages] == [b"", b"y"]
        assert (fresh.pending, fresh.cached_tokens, fresh.coalesced) == ([], 0, False)
        # What comes for an old number is nobody's; cached tokens were told by the first engine.
        play.send(
            Step([old[0]], [9], [Delta(begun.id, [7], "stop", 8), Delta(fresh.id, [1], "stop", 2)])
        )
        await until(lambda: fresh.finish_reason, "the end")
        assert (begun.pending, begun.cached_tokens, fresh.cached_tokens) == ([7], 0, 2)
        assert play.client.in_flight == 0
        assert resumed_total() == before + 2
        assert begun.error is fresh.error is None

    play(scenario)


def test_an_engine_that_says_that_it_ends_is_lost_with_its_reason(play):
    async def scenario(play):
        penalised = msgspec.structs.replace(DEFAULTS, presence_penalty=1.0)
        (kept,), (shown,) = play.submit(), play.submit(sampling=penalised)
        shown.generated = [1]
        play.send(Ending("RuntimeError: boom"))
        await until(lambda: play.losses, "the loss")
        assert "RuntimeError: boom" in shown.error.message
        assert (kept.error, play.client.in_flight) == (None, 1)
        play.router.close()
        play.inbox.clear()
        play.router = Router(play.endpoint)
        await play.connect()
        _, message = await play.hear(Generate)
        assert (message.id, kept.deaths) == (kept.id, 1)

    play(scenario)


def test_a_second_death_ends_it(play):
    async def scenario(play):
        (sequence,) = play.submit()
        await play.restart()
        play.send(Step(deltas=[Delta(sequence.id, [])]))
        await play.settled()
        await play.restart()
        assert type(sequence.error) is EngineUnavailableError
        assert play.client.in_flight == 0

    play(scenario)


def test_a_death_does_not_count_for_what_its_engine_had_not_begun(play):
    async def scenario(play):
        (sequence,) = play.submit()
        for _ in range(4):
            await play.restart()
        assert (sequence.error, sequence.deaths, play.client.in_flight) == (None, 1, 1)
        play.send(Step([sequence.id], [1], [Delta(sequence.id, [])]))
        await play.settled()
        assert sequence.started

    play(scenario)


def test_the_time_in_the_queue_is_that_of_the_engine_whose_tokens_were_read(play):
    async def scenario(play):
        (sequence,) = play.submit()
        submitted = sequence.submitted_at
        play.send(Step(started=[(sequence.id, 0.5), (999, 0.1)]))
        await until(lambda: sequence.queued_s is not None, "the start")
        assert (sequence.queued_s, sequence.started, submitted > 0) == (0.5, True, True)
        await play.restart()
        assert (sequence.queued_s, sequence.submitted_at > submitted) == (None, True)
        play.send(Step([sequence.id], [1], started=[(sequence.id, 0.25)]))
        await until(lambda: sequence.pending, "the token")
        sequence.generated, sequence.pending = sequence.pending, []
        submitted = sequence.submitted_at
        sequence.deaths = 0
        await play.restart()
        play.send(Step(started=[(sequence.id, 7.5)]))
        await play.settled()
        assert (sequence.queued_s, sequence.submitted_at) == (0.25, submitted)

    play(scenario)


def test_another_model_does_not_get_them(play):
    async def scenario(play):
        (sequence,) = play.submit()
        await play.restart(msgspec.structs.replace(INFO, vocab_size=50))
        assert "another model" in sequence.error.message
        await play.settled()
        play.drain()
        assert not any(isinstance(m, Generate) for _, m in play.inbox)

    play(scenario)


@pytest.mark.parametrize("way", ["deadline", "abort", "fail_all", "no_other", "refused"])
def test_what_waits_ends_once_in_every_way(play, way):
    async def scenario(play):
        (sequence,) = play.submit(timeout_s=0.5 if way == "deadline" else 60.0)
        play.router.close()
        await until(lambda: play.losses, "the loss")
        assert (sequence.error, play.client.in_flight) == (None, 1)
        if way == "deadline":
            await until(lambda: sequence.error, "the deadline")
            assert sequence.error.status == 504
        elif way == "abort":
            play.client.abort([sequence])
        elif way == "fail_all":
            play.client.fail_all(OverloadedError("over"))
        elif way == "no_other":
            play.client.fail_waiting(OverloadedError("over"))
        play.inbox.clear()
        play.router = Router(play.endpoint)
        if way == "refused":
            play.peer, _ = await play.hear(Hello)
            play.send(Refused(99, "another version"))
            await until(lambda: sequence.error, "the refusal")
        assert sequence.answer.flushes == (way != "abort")
        assert play.client.in_flight == 0
        await play.connect()
        await play.settled()
        play.drain()
        assert not any(isinstance(m, Generate | Abort) for _, m in play.inbox)

    play(scenario)


def test_blocks_are_asked_for_and_told(play):
    async def scenario(play):
        told = []
        play.client.on_blocks = lambda handle, message: told.append((handle, message))
        play.handle.watch_blocks()
        assert await play.hear(WatchBlocks) == (play.peer, WatchBlocks())
        play.send(KvBlocks(1, 64, b"12345678", reset=True))
        await until(lambda: told, "the blocks")
        assert told == [(play.handle, KvBlocks(1, 64, b"12345678", b"", reset=True))]

    play(scenario)


def test_nobody_asks_for_the_blocks_of_the_only_engine(play):
    async def scenario(play):
        play.submit()
        await play.hear(Generate)
        play.client.abort([])
        await play.settled()
        play.drain()
        assert not any(isinstance(message, WatchBlocks) for _, message in play.inbox)

    play(scenario)


def test_what_ran_for_a_while_is_hardly_what_its_engine_died_of(play, monkeypatch):
    async def scenario(play):
        monkeypatch.setattr(client, "_PROVED_S", 0.01)
        ran, young = play.submit(2)
        timing = Timing(0.1, 0)
        play.send(Step(deltas=[Delta(ran.id, [1], timing=timing)]))
        await play.settled()
        await asyncio.sleep(0.02)
        play.send(Step([ran.id], [2], [Delta(young.id, [1], timing=timing)]))
        await play.settled()
        await play.restart()
        assert [(s.proved, s.deaths, s.losses) for s in (ran, young)] == [
            (True, 0, 1),
            (False, 1, 1),
        ]
        # In the next engine it has to prove itself again.
        play.send(Step(started=[(ran.id, 0.0)]))
        await play.settled()
        await play.restart()
        assert (ran.proved, ran.losses) == (False, 2)

    play(scenario)


def test_a_text_that_is_embedded_is_no_load_any_more(play):
    async def scenario(play):
        told = []
        (sequence,) = play.submit()
        sequence.ticket = SimpleNamespace(finished=lambda: told.append(sequence.vector))
        play.send(Embeddings([Embedding(sequence.id, b"1234")]))
        await until(lambda: told, "the vector")
        assert told == [b"1234"]
        sequence.ticket = None

    play(scenario)
