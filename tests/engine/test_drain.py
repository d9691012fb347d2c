"""A drain: the engine finishes its requests, tells frontends to send no more, and ends."""

from tests.engine.fakes import Bench, generate
from vgate.engine.loop import HEARTBEAT_S
from vgate.wire.messages import PROTOCOL_VERSION, Delta, Hello, Status, Welcome


def drained(bench: Bench, timeout_s: float = 60.0) -> float:
    """Drain an engine; return the seconds until its loop ended."""
    began = bench.clock.now
    bench.loop.drain(timeout_s)
    bench.loop.run()
    return bench.clock.now - began


def ends(deltas: list[Delta]) -> list[str]:
    return [delta.finish_reason for delta in deltas if delta.finish_reason]


def test_without_frontends_it_ends_at_once():
    bench = Bench()
    assert drained(bench) < HEARTBEAT_S


def test_frontends_are_told_at_once_and_then_it_ends():
    bench = Bench()
    bench.welcome(b"a", b"b")
    assert drained(bench) <= 2 * HEARTBEAT_S
    for peer in (b"a", b"b"):
        statuses = bench.heard(peer, Status)
        assert all(status.draining for status in statuses)
        assert len(statuses) == 2


def test_what_runs_and_what_waits_is_finished():
    bench = Bench(max_num_seqs=1)
    bench.welcome(b"a")
    bench.say(b"a", generate(1, max_tokens=100), generate(2, max_tokens=100))
    bench.turn(3)
    assert (len(bench.scheduler.running), bench.scheduler.waiting) == (1, 1)
    drained(bench)
    assert [ends(bench.deltas(b"a", number)) for number in (1, 2)] == [["length"], ["length"]]


def test_a_request_that_was_on_its_way_is_finished_too():
    bench = Bench()
    bench.welcome(b"a")
    bench.loop.drain(60.0)
    bench.say(b"a", generate(1, max_tokens=5))
    bench.loop.run()
    assert ends(bench.deltas(b"a", 1)) == ["length"]


def test_it_ends_in_time_whatever_runs():
    bench = Bench()
    bench.welcome(b"a")
    bench.say(b"a", generate(1, max_tokens=10_000, prompt_tokens=1))
    bench.turn(2)
    assert 0.5 <= drained(bench, timeout_s=0.5) < 0.5 + HEARTBEAT_S + 0.1
    assert ends(bench.deltas(b"a", 1)) == []


def test_a_frontend_that_comes_late_is_told_as_well():
    bench = Bench()
    bench.welcome(b"a")
    bench.say(b"a", generate(1, max_tokens=60))
    bench.turn()
    bench.loop.drain(60.0)
    bench.turn()
    bench.say(b"late", Hello(PROTOCOL_VERSION, "late"))
    bench.loop.run()
    assert bench.heard(b"late", Welcome)
    assert bench.heard(b"late", Status)[0].draining


def test_a_cordoned_engine_tells_a_newcomer_at_once_and_goes_on():
    bench = Bench()
    bench.welcome(b"a")
    bench.loop.cordoned = True
    bench.say(b"a", generate(1, max_tokens=100))
    bench.turn(3)
    bench.say(b"late", Hello(PROTOCOL_VERSION, "late"))
    bench.turn()
    assert bench.heard(b"late", Status)[0].draining
    bench.turn(200)
    assert ends(bench.deltas(b"a", 1)) == ["length"]
    bench.loop.cordoned = False
    bench.clock.now += HEARTBEAT_S
    bench.turn()
    assert not bench.heard(b"a", Status)[-1].draining
