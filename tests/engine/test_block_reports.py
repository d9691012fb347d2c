"""What frontends that watch know of a KV cache is what it holds."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.engine.fakes import Bench, generate
from vgate.engine.blocks import reports
from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.blocks.reports import BlockReports
from vgate.engine.loop import HEARTBEAT_S
from vgate.wire.kv_blocks import KvBlocks, WatchBlocks, block_keys, block_seed, unpack_keys
from vgate.wire.messages import Goodbye, Status
from vgate.wire.parameters import DEFAULTS, GenerateOptions, SamplingParams


class Reader:
    """What a frontend makes of the messages."""

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.number = 0
        self.resets = 0

    def read(self, message: KvBlocks) -> None:
        stored, removed = unpack_keys(message.stored), unpack_keys(message.removed)
        if message.reset:
            self.keys, self.number = set(), 0
            self.resets += 1
        assert message.number == self.number + 1
        assert not {*stored} & {*removed}
        self.number += 1
        self.keys = self.keys - {*removed} | {*stored}


def fill(blocks: CachedBlocks, *tokens: int, seed: int = 0) -> None:
    """Cache a sequence of blocks of one repeated token each, under their keys as names."""
    prompt = [token for token in tokens for _ in range(blocks.block_tokens)]
    names = block_keys(prompt, blocks.block_tokens, seed)
    blocks.store(names.__getitem__, 0, len(names), prompt, seed)


class TestCachedBlocks:
    def test_a_key_goes_by_the_last_of_its_blocks(self):
        blocks, prompt = CachedBlocks(16), list(range(200))
        names = [f"block {n}" for n in range(12)]
        for end in range(1, 13):
            blocks.store(names.__getitem__, end - 1, end, prompt, 9)
            assert len(blocks.keys) == end // 4
        assert list(blocks.keys.values()) == block_keys(prompt, 64, 9)
        assert list(blocks.keys) == ["block 3", "block 7", "block 11"]
        for name in reversed(names):
            blocks.remove(name)
        assert blocks.keys == {}

    def test_a_sequence_that_was_there_before_is_known_when_it_grows(self):
        blocks, prompt = CachedBlocks(64), list(range(320))
        blocks.store("abcde".__getitem__, 4, 5, prompt, 0)
        assert list(blocks.keys.values()) == block_keys(prompt, 64, 0)

    def test_changes_are_kept_while_they_are_watched(self):
        blocks = CachedBlocks(64)
        fill(blocks, 1, 2)
        assert not blocks.changed
        blocks.watched = True
        before = list(blocks.keys)
        fill(blocks, 1, 3)
        blocks.remove(before[1])
        blocks.remove("unknown")
        assert blocks.take() == ([list(blocks.keys)[1]], [before[1]])
        assert not blocks.changed

    def test_what_comes_and_goes_at_once_is_no_change(self):
        blocks = CachedBlocks(64)
        fill(blocks, 1)
        blocks.watched = True
        fill(blocks, 2)
        blocks.clear()
        fill(blocks, 1)
        assert not blocks.changed
        assert len(blocks.keys) == 1

    def test_how_much_of_a_prompt_is_cached(self):
        blocks, prompt = CachedBlocks(16), list(range(200))
        blocks.store("abcdefgh".__getitem__, 0, 8, prompt, 5)
        assert blocks.cached_tokens(prompt, 5) == blocks.cached_tokens(prompt[:128], 5) == 128
        assert blocks.cached_tokens([*prompt[:100], 9], 5) == 64
        assert blocks.cached_tokens(prompt, 6) == blocks.cached_tokens(prompt[:60], 5) == 0
        blocks.remove("h")
        assert blocks.cached_tokens(prompt, 5) == 64


class Reporting(RuleBasedStateMachine):
    """Frontends that come and go beside a cache that changes, in small pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = CachedBlocks(64)
        self.reports = BlockReports(lambda: self.blocks)
        self.readers: dict[bytes, Reader] = {}
        self.now = 0.0

    @rule(tokens=st.lists(st.integers(1, 4), min_size=1, max_size=5))
    def store(self, tokens):
        fill(self.blocks, *tokens)

    @rule(data=st.data())
    @precondition(lambda self: self.blocks.keys)
    def evict(self, data):
        self.blocks.remove(data.draw(st.sampled_from(sorted(self.blocks.keys))))

    @rule()
    def reset(self):
        self.blocks.clear()

    @rule(peer=st.sampled_from([b"a", b"b", b"c"]))
    def watch(self, peer):
        self.reports.watch(peer)
        self.readers.setdefault(peer, Reader())

    @rule(peer=st.sampled_from([b"a", b"b", b"c"]))
    def leave(self, peer):
        self.reports.forget(peer)
        self.readers.pop(peer, None)

    @rule(pause_s=st.sampled_from([0.0, reports.REPORT_S]), idle=st.booleans())
    def send(self, pause_s, idle):
        self.now += pause_s
        for peer, message in self.reports.messages(self.now, idle=idle):
            self.readers[peer].read(message)

    @rule()
    def come_to_rest(self):
        while self.reports.urgent:
            self.send(0.0, idle=False)
        self.send(0.0, idle=True)
        for reader in self.readers.values():
            assert reader.keys == set(self.blocks.keys.values())

    @invariant()
    def nothing_is_kept_for_nobody(self):
        assert self.blocks.watched == bool(self.readers) == bool(self.reports.watchers)
        assert self.readers or not self.blocks.changed


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(reports, "_PIECE", 3)
    monkeypatch.setattr(reports, "MOST_KEYS", 3)


def test_watchers_know_what_is_cached(small_pieces):
    Reporting.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    Reporting.TestCase("runTest").runTest()


def test_a_block_that_comes_back_after_a_report_began_is_told():
    blocks = CachedBlocks(64)
    report, readers = BlockReports(lambda: blocks), {b"a": Reader(), b"b": Reader()}

    def send(*, idle: bool = False) -> None:
        for peer, message in report.messages(0.0, idle=idle):
            readers[peer].read(message)

    report.watch(b"a")
    send()
    fill(blocks, 1)
    send(idle=True)
    # Gone, and back before anybody was told, but another one has asked in between.
    blocks.clear()
    report.watch(b"b")
    send()
    fill(blocks, 1)
    send(idle=True)
    expected = set(blocks.keys.values())
    assert {peer: reader.keys for peer, reader in readers.items()} == {
        b"a": expected,
        b"b": expected,
    }


def test_a_full_cache_is_reported_over_many_turns():
    blocks = CachedBlocks(64)
    blocks.keys.update((key, key) for key in range(20_000))
    report, reader = BlockReports(lambda: blocks), Reader()
    report.watch(b"a")
    sizes = []
    while report.urgent:
        ((_, message),) = report.messages(0.0, idle=False)
        sizes.append(len(message.stored) // 8)
        reader.read(message)
    assert reader.keys == set(range(20_000))
    assert len(sizes) == 10
    assert max(sizes) == 2048


class Watched(Bench):
    """An engine's loop, and what its frontends know of the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.backend.blocks = CachedBlocks(64)

    def reader(self, peer: bytes) -> Reader:
        reader = Reader()
        for message in self.heard(peer, KvBlocks):
            reader.read(message)
        return reader


def test_nothing_is_followed_until_a_frontend_asks():
    bench = Watched()
    bench.welcome(b"a")
    bench.say(b"a", generate(1))
    bench.settle()
    assert bench.backend.follows == 0
    assert bench.heard(b"a", KvBlocks) == []
    bench.say(b"a", WatchBlocks())
    bench.say(b"b", WatchBlocks())
    bench.turn(3)
    assert bench.backend.follows == 1
    assert bench.heard(b"a", KvBlocks) == [KvBlocks(1, 64, reset=True)]


def test_a_frontend_that_has_not_said_hello_gets_nothing():
    bench = Watched()
    bench.say(b"stranger", WatchBlocks())
    bench.turn(3)
    assert bench.heard(b"stranger", KvBlocks) == []
    assert bench.backend.follows == 0


def test_steps_change_what_frontends_know():
    bench = Watched()
    bench.welcome(b"a", b"b")
    bench.say(b"a", WatchBlocks())
    bench.turn()
    told = iter(range(100, 200))

    def step():
        fill(bench.backend.blocks, next(told))
        return NotImplemented

    bench.backend.on_step = step
    bench.say(b"b", generate(1, max_tokens=40))
    bench.settle()
    bench.turn()
    assert len(bench.backend.blocks.keys) == 40
    assert bench.reader(b"a").keys == set(bench.backend.blocks.keys.values())
    assert bench.heard(b"b", KvBlocks) == []
    # Steps of 10 ms: not each of them has a message of its own.
    assert 10 < len(bench.heard(b"a", KvBlocks)) < 30


def test_asking_again_begins_anew():
    bench = Watched()
    bench.welcome(b"a")
    bench.say(b"a", WatchBlocks())
    bench.turn()
    fill(bench.backend.blocks, 1, 2, 3)
    bench.turn()
    bench.say(b"a", WatchBlocks())
    bench.turn(2)
    reader = bench.reader(b"a")
    assert reader.resets == 2
    assert reader.keys == set(bench.backend.blocks.keys.values())


def test_the_rest_of_a_report_does_not_wait_for_a_message():
    bench = Watched()
    bench.backend.blocks.keys.update((key, key) for key in range(20_000))
    bench.welcome(b"a")
    bench.say(b"a", WatchBlocks())
    bench.turn()
    bench.transport.waits.clear()
    bench.turn(9)
    assert bench.transport.waits == []
    assert len(bench.reader(b"a").keys) == 20_000


@pytest.mark.parametrize("message", [None, Goodbye(), WatchBlocks(wanted=False)])
def test_a_frontend_that_leaves_or_wants_no_more_is_told_nothing_more(message):
    bench = Watched()
    bench.welcome(b"a", b"b")
    for peer in (b"a", b"b"):
        bench.say(peer, WatchBlocks())
    bench.turn(2)
    if message is None:
        bench.transport.gone.add(b"a")
    else:
        bench.say(b"a", message)
    before = len(bench.heard(b"a", KvBlocks))
    for token in range(3):
        fill(bench.backend.blocks, token)
        bench.turn()
    assert len(bench.heard(b"a", KvBlocks)) == before
    assert len(bench.reader(b"b").keys) == 3


def test_an_engine_that_can_not_tell_says_so():
    bench = Bench()
    bench.welcome(b"a")
    bench.say(b"a", WatchBlocks())
    bench.turn(3)
    assert bench.heard(b"a", KvBlocks) == [KvBlocks(1, 0, reset=True)]


def status(bench: Bench) -> Status:
    bench.transport.sent.clear()
    bench.clock.now += HEARTBEAT_S
    bench.turn()
    (last,) = bench.heard(b"a", Status)
    return last


class TestLoad:
    def test_it_counts_what_waits_and_what_runs(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(b"a")
        assert status(bench).load == msgspec.structs.replace(
            status(bench).load, prefill_tokens=0, decode_tokens=0, prefill_tokens_per_s=5000
        )
        asked = SamplingParams(max_tokens=30, ignore_eos=True).over(DEFAULTS)
        bench.say(b"a", generate(1, prompt_tokens=50, sampling=asked))
        bench.turn(2)
        bench.say(b"a", generate(2, prompt_tokens=70, sampling=asked))
        bench.turn(2)
        load = status(bench).load
        (running,) = bench.scheduler.running.values()
        assert load.prefill_tokens == 70
        assert load.decode_tokens == 30 + 30 - running.generated_tokens

    def test_what_is_cached_of_a_prompt_does_not_count(self):
        bench = Watched()
        bench.welcome(b"a")
        bench.say(b"a", WatchBlocks())
        bench.turn()
        bench.backend.on_step = lambda: None
        fill(bench.backend.blocks, 7, seed=block_seed("", ""))
        bench.say(b"a", generate(1, prompt_tokens=70))
        bench.turn()
        assert status(bench).load.prefill_tokens == 6
        bench.say(b"a", generate(2, prompt_tokens=90, options=GenerateOptions(cache_salt="own")))
        bench.turn()
        assert status(bench).load.prefill_tokens == 6 + 90
