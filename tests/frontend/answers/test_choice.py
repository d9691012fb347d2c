"""Choices: the same outcome however the tokens come, and an exact end at a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.token_ids import chop, token_ids
from tests.tiny_model.samples import TEXTS
from vgate.frontend.answers.choice import Choice, DecodeOptions
from vgate.frontend.engines.sequence import Sequence

SAMPLES = [text for text in TEXTS if text]


class Reader:
    """A choice that is fed by hand."""

    def __init__(self, model, stops=(), min_tokens=0, **reading):
        self.sequence = Sequence(None, 0)
        self.choice = Choice(
            self.sequence,
            [],
            DecodeOptions(texts=model.token_texts, stops=stops, min_tokens=min_tokens, **reading),
        )

    def feed(self, ids, finish=None):
        if self.stopped or self.sequence.finish_reason:
            return ""
        self.sequence.pending += ids
        self.sequence.finish_reason = finish
        return self.choice.take_text()

    def finish(self):
        return self.feed([], "length")

    @property
    def tokens(self):
        return self.choice.tokens

    @property
    def stopped(self):
        return self.choice.stop_reason is not None


def everything(reader, parts):
    return "".join(reader.feed(part) for part in parts) + reader.finish()


class TestCounts:
    @settings(deadline=None)
    @given(data=st.data())
    def test_every_token_counts(self, model, data):
        ids = data.draw(token_ids(model))
        for stops in ((), ("\0never\0",)):
            reader = Reader(model, stops)
            everything(reader, chop(data, ids))
            assert reader.tokens == len(ids)

    def test_a_stop_token_counts_and_is_no_text(self, built_in):
        reader = Reader(built_in)
        assert reader.feed([*b"a", 256], "stop") == "a"
        assert reader.tokens == 2

    def test_after_a_stop_nothing_counts(self, built_in):
        reader = Reader(built_in, ("b",))
        assert reader.feed(list(b"abcdef")) == "a"
        assert reader.feed(list(b"more")) == ""
        assert reader.tokens == 2
        assert reader.stopped


def first_completed(text, stops):
    """Where the answer ends: before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return end - len(stop)
    return None


class TestStops:
    @pytest.mark.parametrize("begin", range(1, 12))
    @pytest.mark.parametrize("size", range(1, 12))
    def test_at_every_cut(self, built_in, begin, size):
        text = "The quick brown fox"
        stop = text[begin : begin + size]
        expected = text[: text.index(stop)]
        ids = list(text.encode())
        for cut in range(len(ids) + 1):
            reader = Reader(built_in, (stop,))
            answer = reader.feed(ids[:cut]) + reader.feed(ids[cut:])
            assert answer + reader.finish() == expected
            assert reader.stopped
            assert reader.tokens == text.index(stop) + len(stop)

    @settings(deadline=None, max_examples=300)
    @given(
        text=st.text("abé", max_size=20),
        stops=st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3),
        data=st.data(),
    )
    def test_the_first_complete_match_ends_it_exactly(self, built_in, text, stops, data):
        ids = built_in.tokenizer.encode(text)
        reader = Reader(built_in, tuple(stops))
        answer = everything(reader, chop(data, ids))
        end = first_completed(text, stops)
        assert reader.stopped == (end is not None)
        if end is None:
            assert answer == text
        else:
            # Two stop strings may be complete with the same character.
            ends = {
                at
                for stop in stops
                if (at := text.find(stop)) >= 0
                and at + len(stop) == min(text.find(s) + len(s) for s in stops if s in text)
            }
            assert answer in {text[:at] for at in ends}

    @settings(deadline=None)
    @given(text=st.sampled_from(SAMPLES), data=st.data())
    def test_across_the_tokens_of_a_real_vocabulary(self, tiny, text, data):
        ids = tiny.tokenizer.encode(text)
        text = tiny.tokenizer.decode(ids)
        if not text:
            return
        begin = data.draw(st.integers(0, len(text) - 1))
        size = data.draw(st.integers(1, min(8, len(text) - begin)))
        stop = text[begin : begin + size]
        if "\ufffd" in stop:
            return
        reader = Reader(tiny, (stop,))
        assert everything(reader, chop(data, ids)) == text[: text.index(stop)]
        assert reader.stopped

    @pytest.mark.parametrize(
        ("stops", "answer"),
        [
            (("quick", "The"), ""),
            (("brown", "quick"), "The "),
            (("quick brown", "uick"), "The q"),
            (("zzz", "fox"), "The quick brown "),
            (("zzz",), "The quick brown fox"),
            (("foxes",), "The quick brown fox"),
        ],
    )
    def test_of_several_the_first_to_be_complete(self, built_in, stops, answer):
        ids = list(b"The quick brown fox")
        for parts in ([ids], [[i] for i in ids]):
            assert everything(Reader(built_in, stops), parts) == answer

    def test_what_may_become_a_stop_is_held_back_and_nothing_else(self, built_in):
        reader = Reader(built_in, ("END",))
        assert [reader.feed([c]) for c in b"aEbENENc"] == [
            "a",
            "",
            "Eb",
            "",
            "",
            "EN",
            "",
            "ENc",
        ]

    def test_what_was_held_back_is_released_at_the_end(self, built_in):
        reader = Reader(built_in, ("END",))
        assert reader.feed(list(b"the EN")) == "the "
        assert reader.finish() == "EN"
        assert reader.finish() == ""
        assert not reader.stopped

    def test_a_stop_that_repeats_its_own_beginning(self, built_in):
        for text, answer in (("aab", ""), ("aaab", "a"), ("aaaab", "aa")):
            for parts in ([list(text.encode())], [[c] for c in text.encode()]):
                assert everything(Reader(built_in, ("aab",)), parts) == answer

    def test_a_stop_outside_ascii(self, built_in):
        reader = Reader(built_in, ("。",))
        assert everything(reader, [[b] for b in "你好。再见".encode()]) == "你好"

    @pytest.mark.parametrize("min_tokens", range(8))
    def test_min_tokens_puts_the_search_off(self, built_in, min_tokens):
        # "b" comes at tokens 2, 4 and 6; one that comes too early is text.
        reader = Reader(built_in, ("b",), min_tokens)
        answer = everything(reader, [[c] for c in b"abababa"])
        end = next((n for n in (2, 4, 6) if n > min_tokens), None)
        assert answer == ("abababa" if end is None else "abababa"[: end - 1])

    def test_a_stop_that_completes_after_min_tokens_counts_whole(self, built_in):
        reader = Reader(built_in, ("abc",), 2)
        assert everything(reader, [[c] for c in b"abcd"]) == ""
