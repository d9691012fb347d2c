"""A pool that routes: what the router is told, and what engines that fail and die get."""

import asyncio
import time

import msgspec
import pytest

from tests.frontend.engines.memory_handle import MemoryHandle
from tests.frontend.engines.test_pool import ENDLESS, MODEL, Answer, Play
from vgate.errors import EngineUnavailableError, InternalError
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.suspects import Suspects
from vgate.frontend.observe import metrics
from vgate.frontend.routing import POLICIES
from vgate.wire.codec import pack_token_ids
from vgate.wire.kv_blocks import KvBlocks, block_keys, block_seed, pack_keys
from vgate.wire.messages import Delta, Generate, Status
from vgate.wire.progress import Timing

BLOCK = 64
PROMPT = pack_token_ids(range(1000))
LARGE = msgspec.structs.replace(MODEL, max_num_seqs=100)


@pytest.fixture
def play():
    def run(scenario, *, engines=4, policy="prefix_aware", **options):
        async def main():
            async with asyncio.timeout(60):
                play = Play(engines, policy, **options)
                for engine in play.engines:
                    engine.start(LARGE)
                try:
                    await scenario(play)
                finally:
                    play.pool.close()

        asyncio.run(main())

    return run


def submit(play: Play, prompt: bytes = PROMPT, **fields) -> Answer:
    answer = Answer(play.pool)
    sequence = Sequence(answer, 0)
    answer.sequences.append(sequence)
    message = Generate(play.pool.next_id(), prompt, ENDLESS, **fields)
    play.pool.submit(sequence, message, 60.0)
    return answer


def engine_of(play: Play, answer: Answer) -> int:
    (sequence,) = answer.sequences
    return next(n for n, engine in enumerate(play.engines) if sequence.id in engine.running)


def finish(play: Play, answer: Answer, error: Exception | None = None) -> None:
    """End a request as its handle and the pipeline do."""
    (sequence,) = answer.sequences
    play.engines[engine_of(play, answer)].running.pop(sequence.id)
    if error is not None:
        sequence.error = error
    else:
        sequence.take(Delta(sequence.id, [1], timing=Timing(0.1, 0)))
        sequence.take(Delta(sequence.id, [2], "stop", timing=Timing(0.1, 0)))
    play.pool.abort(answer.sequences)


def accounts(play: Play) -> list[tuple[int, int, int]]:
    replicas = play.pool._replicas._replicas.values()
    return [(r.sequences, r.prefill_tokens, r.decode_tokens) for r in replicas]


def report(play: Play, number: int, count: int = 1) -> None:
    """Have an engine tell that it has the blocks of the prompt."""
    keys = pack_keys(block_keys(PROMPT, BLOCK, block_seed("", "")))
    message = KvBlocks(count, BLOCK, keys, reset=count == 1)
    play.pool.on_blocks(play.engines[number], message)


def test_one_engine_is_not_routed_to(play):
    async def scenario(play):
        before = metrics.ROUTED._metrics.copy()
        answer = submit(play)
        assert answer.sequences[0].ticket is None
        finish(play, answer)
        assert (play.engines[0].watched, metrics.ROUTED._metrics) == (0, before)

    play(scenario, engines=1)


def test_blocks_are_asked_for_where_there_are_several_engines_and_at_each_connection(play):
    async def scenario(play):
        assert [engine.watched for engine in play.engines] == [1, 1]
        play.engines[0].stop()
        play.engines[0].start(LARGE)
        assert [engine.watched for engine in play.engines] == [2, 1]

    play(scenario, engines=2)
    for policy in ("least_loaded", "round_robin"):

        async def unread(play):
            await asyncio.sleep(0)
            assert [engine.watched for engine in play.engines] == [0, 0]

        play(unread, engines=2, policy=policy)


def test_engines_come_and_go_while_requests_run(play):
    async def scenario(play):
        stays, goes = play.engines
        answers = [submit(play, pack_token_ids(range(n, 1000 + n))) for n in range(8)]
        assert all(answer.sequences[0].ticket for answer in answers)
        for answer in answers:
            if answer.sequences[0].id in goes.running:
                finish(play, answer)
        play.pool.remove(goes)
        assert goes.closed
        # The last one is not routed to, so it need not tell what it has, and what was is settled.
        assert not stays.watching
        alone = submit(play)
        assert (alone.sequences[0].ticket, accounts(play)[0][0]) == (None, len(stays.running) - 1)
        comes = MemoryHandle(asyncio.get_running_loop(), play.pool)
        play.pool.add(comes)
        comes.start(LARGE)
        assert (stays.watched, comes.watched) == (2, 1)
        assert submit(play).sequences[0].ticket is not None
        play.pool.abort([answer.sequences[0] for answer in answers])
        assert accounts(play)[0][0] <= 1

    play(scenario, engines=2)


def test_requests_follow_what_an_engine_reports(play):
    async def scenario(play):
        for number in (2, 1, 3, 0):
            report(play, number)
            places = set()
            for _ in range(5):
                answer = submit(play)
                places.add(engine_of(play, answer))
                finish(play, answer)
            assert places == {number}
            # The blocks are gone with the engine.
            play.engines[number].stop()
            play.engines[number].start(LARGE)

    play(scenario)


def test_after_a_gap_the_blocks_are_asked_for_again(play):
    async def scenario(play):
        report(play, 2)
        report(play, 2, 2)
        assert play.engines[2].watched == 1
        report(play, 2, 4)
        report(play, 2, 5)
        assert play.engines[2].watched == 2
        report(play, 2)
        assert play.engines[2].watched == 2
        answer = submit(play)
        assert engine_of(play, answer) == 2

    play(scenario)


@pytest.mark.parametrize("policy", POLICIES)
def test_accounts_are_settled_however_a_request_ends(play, policy):
    async def scenario(play):
        answers = [submit(play, dedup_key=b"%d" % (n % 5)) for n in range(20)]
        assert sum(account[0] for account in accounts(play)) == 20
        finish(play, answers[0])
        finish(play, answers[1], InternalError("a bug"))
        play.pool.abort(answers[2].sequences)
        place = engine_of(play, answers[3])
        play.engines[place].stop()
        assert sum(account[0] for account in accounts(play)) == 17
        assert accounts(play)[place] == (0, 0, 0)
        play.engines[place].start(LARGE)
        for engine in play.engines:
            engine.fail_all(EngineUnavailableError("over"))
        for answer in answers:
            play.pool.abort(answer.sequences)
        assert set(accounts(play)) == {(0, 0, 0)}

    play(scenario, policy=policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_go_on_in_others_at_once_when_an_engine_dies(play, policy):
    async def scenario(play):
        answers = [submit(play, pack_token_ids(range(n, 1000 + n))) for n in range(40)]
        for answer in answers:
            answer.sequences[0].generated = [5]
        died = play.load.index(max(play.load))
        play.engines[died].stop()
        assert play.load[died] == 0
        assert sum(play.load) == play.pool.in_flight == 40
        assert {answer.error for answer in answers} == {None}
        # The engine that replaces it has to prove itself.
        play.engines[died].start(LARGE)
        more = [submit(play) for _ in range(20)]
        assert play.load[died] <= 1
        assert {answer.error for answer in more} == {None}

    play(scenario, policy=policy)


def test_an_engine_that_was_drained_has_nothing_to_prove(play):
    async def scenario(play):
        play.engines[1].status = Status(0, 0, 0.0, None, True)
        submit(play)
        play.engines[1].stop()
        play.engines[1].status = Status(0, 0, 0.0)
        play.engines[1].start(LARGE)
        for _ in range(30):
            submit(play)
        assert min(play.load) >= 5

    play(scenario, policy="round_robin")


@pytest.mark.parametrize("policy", POLICIES)
def test_an_engine_that_fails_requests_gets_few(play, policy):
    async def scenario(play):
        failed = 0
        for number in range(100):
            answer = submit(play, pack_token_ids(range(number, 1000 + number)))
            bad = engine_of(play, answer) == 2
            failed += bad
            finish(play, answer, InternalError("a bug") if bad else None)
        assert 3 <= failed <= 5

    play(scenario, policy=policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_that_kills_engines_is_not_handed_round(play, policy, tmp_path):
    """Two engines die with it, a third when its client sends it again, and no more."""
    poison = pack_token_ids(range(5000, 6000))
    deaths = 0

    def strike(play) -> None:
        """Kill each engine that has begun the request, again and again."""
        nonlocal deaths
        while dying := [
            engine
            for engine in play.engines
            if any(s.message.prompt == poison for s in engine.running.values())
        ]:
            for engine in dying:
                deaths += 1
                engine.stop()
                engine.start(LARGE)

    async def scenario(play):
        others = [submit(play, pack_token_ids(range(n, 1000 + n))) for n in range(24)]
        for most in (2, 3, 3, 3):
            try:
                answer = submit(play, poison, dedup_key=b"poison")
            except EngineUnavailableError as error:
                assert "it is refused" in error.message  # noqa: PT017
                assert most == 3
                continue
            strike(play)
            assert isinstance(answer.error, EngineUnavailableError)
            assert deaths == most
        # Most others were in one of the engines at most.
        assert sum(answer.error is None for answer in others) >= 12

    play(scenario, policy=policy, suspects=Suspects(tmp_path / "suspects", "m", 60.0))
    assert deaths == 3


def test_choosing_costs_a_request_little(play):
    async def scenario(play):
        report(play, 1)
        began = time.perf_counter()
        for _ in range(200):
            finish(play, submit(play))
        # About 0.1 ms.
        assert (time.perf_counter() - began) / 200 < 0.01

    play(scenario)


def test_routed_sequences_are_counted(play):
    def counts():
        routed = metrics.ROUTED.labels("m", "1", "prefix")._value.get()
        tokens = metrics.ROUTED_TOKENS.labels("m", "1")._value.get()
        return routed, tokens, metrics.PREFIX_HITS.labels("m", "1")._value.get()

    async def scenario(play):
        report(play, 1)
        before = counts()
        submit(play)
        assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1000, 960]

    play(scenario)


def test_a_choice_that_is_complete_is_no_load_while_others_run(play):
    async def scenario(play):
        answer = Answer(play.pool)
        for index in range(4):
            sequence = Sequence(answer, index)
            answer.sequences.append(sequence)
            message = Generate(play.pool.next_id(), PROMPT, ENDLESS)
            play.pool.submit(sequence, message, 60.0)
        for left in (3, 2, 1):
            sequence = answer.sequences[left]
            sequence.take(Delta(sequence.id, [1], "stop", timing=Timing(0.1, 0)))
            assert sum(account[0] for account in accounts(play)) == left
        play.pool.abort(answer.sequences)
        assert set(accounts(play)) == {(0, 0, 0)}

    play(scenario)
