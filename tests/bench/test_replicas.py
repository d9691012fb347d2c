"""The clients of bench.replicas notice every wrong token, error and gap."""

from collections import Counter

import pytest

from bench.replicas import Kill, Outcome, Stream, percentile, table


def event(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode()


DONE = b"data: [DONE]\n\n"


def played(text: str, *pieces: bytes, kills: list[Kill] | None = None) -> Stream:
    stream = Stream(text, kills or [])
    stream.head(200, b"text/event-stream")
    for number, piece in enumerate(pieces):
        stream.feed(piece, 10.0 + number)
    stream.end(99.0)
    return stream


def test_a_stream_that_is_right():
    stream = played("abc", event("ab"), event("c"), DONE)
    assert (stream.error, stream.heard) == (None, 3)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ((event("ab"), event("x"), DONE), "wrong_token"),
        ((event("ab"), event("ab"), DONE), "wrong_token"),
        ((event("ab"), DONE), "wrong_token"),
        ((event("abcd"), DONE), "wrong_token"),
        ((event("ab"), event("c")), "cut"),
        ((event("ab"), b'data: {"error":{"message":"m"}}\n\n'), "error_event"),
        ((b"data: {\n\n",), "bad_json"),
    ],
)
def test_what_is_wrong(pieces, error):
    assert played("abc", *pieces).error == error


def test_the_longest_gaps_around_a_kill_are_those_of_the_streams_that_moved():
    kill = Kill(10.5)
    played("abcd", event("a"), event("b"), event("c"), event("d"), DONE, kills=[kill])
    # The third gap began a second and a half after it.
    assert kill.gaps_s == [0.5, 1.0]
    kill.gaps_s += [0.1, 0.2]
    assert kill.pauses_s == []
    kill.moved = 3
    assert kill.pauses_s == [1.0, 0.5, 0.2]
    outcome = Outcome(ends=Counter(right=2), kills=[kill], seconds=1.0)
    assert outcome.pause_s(0.5) == 0.5
    assert outcome.passed(1.0)
    assert not outcome.passed(0.9)
    assert "1000" in table(outcome)
    # 60 streams of 500 tokens, 40 of which moved to two replicas: 10,000 tokens for each.
    kill.held = (30_000, 60)
    kill.end(40, 2, 0.05)
    assert (kill.moved, kill.prefill_s) == (40, 5 * 0.05)
    assert outcome.pause_s(1.0, net=True) == 0.75
    assert outcome.passed(0.8)
    outcome.ends["error_event"] += 1
    assert not outcome.passed(1.0)
    assert percentile([], 0.99) == 0.0
