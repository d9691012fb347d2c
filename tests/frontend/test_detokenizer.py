"""Text is the same however its tokens are cut, and ends exactly before a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from tests.tiny_model.samples import TEXTS
from vgate.frontend.detokenizer import Detokenizer

MODELS = ["tiny", "built_in"]
SAMPLES = [text for text in TEXTS if text]


@pytest.fixture(scope="session", params=MODELS)
def model(request):
    return request.getfixturevalue(request.param)


def chop(data, ids):
    """Cut a list at places that hypothesis chooses."""
    parts = []
    while ids:
        size = data.draw(st.integers(1, len(ids)))
        parts.append(ids[:size])
        ids = ids[size:]
    return parts


def everything(detokenizer, parts):
    return "".join(detokenizer.feed(part) for part in parts) + detokenizer.finish()


def one_by_one(tokenizer, ids):
    """Decode as vLLM does: a stream, and a new one after bytes that turned out invalid."""
    stream, text = DecodeStream(skip_special_tokens=True), []
    for token in ids:
        try:
            text.append(stream.step(tokenizer, token) or "")
        except Exception as error:  # noqa: BLE001 - tokenizers raises no other type
            assert "Invalid prefix" in str(error)  # noqa: PT017
            stream = DecodeStream(skip_special_tokens=True)
            text.append(stream.step(tokenizer, token) or "")
    return "".join(text)


def token_ids(model):
    return st.lists(st.integers(0, model.tokenizer.get_vocab_size() - 1), max_size=40)


class TestText:
    @settings(deadline=None)
    @given(data=st.data())
    def test_any_tokens_in_any_parts_give_what_a_stream_gives(self, model, data):
        ids = data.draw(token_ids(model))
        text = everything(Detokenizer(model.tokenizer, []), chop(data, ids))
        assert text == one_by_one(model.tokenizer, ids)

    @pytest.mark.parametrize("text", SAMPLES)
    def test_text_survives(self, model, text):
        ids = model.encode(text)
        assert everything(Detokenizer(model.tokenizer, []), [[i] for i in ids]) == (
            model.tokenizer.decode(ids)
        )

    @settings(deadline=None)
    @given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), data=st.data())
    def test_any_text_survives_in_any_parts(self, model, text, data):
        ids = model.encode(text)
        expected = model.tokenizer.decode(ids)
        assert everything(Detokenizer(model.tokenizer, []), chop(data, ids)) == expected

    @settings(deadline=None)
    @given(data=st.data())
    def test_the_end_of_the_prompt_is_enough(self, model, data):
        message = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
        answer = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
        prompt = model.encode(model.template.render([{"role": "user", "content": message}]))
        ids = model.encode(answer)
        stream = DecodeStream(ids=prompt, skip_special_tokens=True)
        whole = "".join(stream.step(model.tokenizer, token) or "" for token in ids)
        assert everything(Detokenizer(model.tokenizer, prompt), [ids]) == whole

    @pytest.mark.parametrize("text", SAMPLES)
    @pytest.mark.parametrize("padding", range(4))
    def test_an_answer_that_repeats_the_prompt_is_whole(self, model, text, padding):
        # The tokens that prime the stream may begin inside a character.
        message = text + "x" * padding
        prompt = model.encode(model.template.render([{"role": "user", "content": message}]))
        ids = model.encode(text)
        answer = everything(Detokenizer(model.tokenizer, prompt), [[i] for i in ids])
        assert answer == model.tokenizer.decode(ids)

    def test_special_tokens_are_no_text(self, tiny):
        end = tiny.tokenizer.token_to_id("<|im_end|>")
        ids = [*tiny.encode("Hello"), end, *tiny.encode(" you")]
        assert everything(Detokenizer(tiny.tokenizer, []), [ids]) == "Hello you"

    def test_a_character_waits_for_its_last_byte(self, built_in):
        detokenizer = Detokenizer(built_in.tokenizer, [])
        assert [detokenizer.feed([byte]) for byte in "é😀".encode()] == [
            "",
            "é",
            "",
            "",
            "",
            "😀",
        ]

    def test_bytes_that_never_become_a_character_are_not_shown(self, built_in):
        detokenizer = Detokenizer(built_in.tokenizer, [])
        assert everything(detokenizer, [list(b"ok" + "😀".encode()[:3])]) == "ok"

    def test_a_prompt_that_ends_inside_a_character_is_continued(self, built_in):
        # As in a raw completion: the first token completes what the prompt began.
        first, *rest = "é".encode()
        detokenizer = Detokenizer(built_in.tokenizer, [first])
        assert everything(detokenizer, [[*rest, ord("a")]]).endswith("a")


class TestCounts:
    @settings(deadline=None)
    @given(data=st.data())
    def test_every_token_counts(self, model, data):
        ids = data.draw(token_ids(model))
        for stops in ((), ("\0never\0",)):
            detokenizer = Detokenizer(model.tokenizer, [], stops)
            everything(detokenizer, chop(data, ids))
            assert detokenizer.tokens == len(ids)

    def test_a_skipped_token_counts(self, tiny):
        detokenizer = Detokenizer(tiny.tokenizer, [])
        detokenizer.skip()
        assert detokenizer.tokens == 1

    def test_after_a_stop_nothing_counts(self, built_in):
        detokenizer = Detokenizer(built_in.tokenizer, [], ("b",))
        assert detokenizer.feed(list(b"abcdef")) == "a"
        assert detokenizer.feed(list(b"more")) == ""
        assert detokenizer.tokens == 2
        assert detokenizer.stopped


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
            detokenizer = Detokenizer(built_in.tokenizer, [], (stop,))
            answer = detokenizer.feed(ids[:cut]) + detokenizer.feed(ids[cut:])
            assert answer + detokenizer.finish() == expected
            assert detokenizer.stopped
            assert detokenizer.tokens == text.index(stop) + len(stop)

    @settings(deadline=None, max_examples=300)
    @given(
        text=st.text("abé", max_size=20),
        stops=st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3),
        data=st.data(),
    )
    def test_the_first_complete_match_ends_it_exactly(self, built_in, text, stops, data):
        ids = built_in.encode(text)
        detokenizer = Detokenizer(built_in.tokenizer, [], tuple(stops))
        answer = everything(detokenizer, chop(data, ids))
        end = first_completed(text, stops)
        assert detokenizer.stopped == (end is not None)
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
        ids = tiny.encode(text)
        text = tiny.tokenizer.decode(ids)
        if not text:
            return
        begin = data.draw(st.integers(0, len(text) - 1))
        size = data.draw(st.integers(1, min(8, len(text) - begin)))
        stop = text[begin : begin + size]
        if "\ufffd" in stop:
            return
        detokenizer = Detokenizer(tiny.tokenizer, [], (stop,))
        assert everything(detokenizer, chop(data, ids)) == text[: text.index(stop)]
        assert detokenizer.stopped

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
            assert everything(Detokenizer(built_in.tokenizer, [], stops), parts) == answer

    def test_what_may_become_a_stop_is_held_back_and_nothing_else(self, built_in):
        detokenizer = Detokenizer(built_in.tokenizer, [], ("END",))
        assert [detokenizer.feed([c]) for c in b"aEbENENc"] == [
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
        detokenizer = Detokenizer(built_in.tokenizer, [], ("END",))
        assert detokenizer.feed(list(b"the EN")) == "the "
        assert detokenizer.finish() == "EN"
        assert detokenizer.finish() == ""
        assert not detokenizer.stopped

    def test_a_stop_that_repeats_its_own_beginning(self, built_in):
        for text, answer in (("aab", ""), ("aaab", "a"), ("aaaab", "aa")):
            for parts in ([list(text.encode())], [[c] for c in text.encode()]):
                assert everything(Detokenizer(built_in.tokenizer, [], ("aab",)), parts) == answer

    def test_a_stop_outside_ascii(self, built_in):
        detokenizer = Detokenizer(built_in.tokenizer, [], ("。",))
        assert everything(detokenizer, [[b] for b in "你好。再见".encode()]) == "你好"

    @pytest.mark.parametrize("min_tokens", range(8))
    def test_min_tokens_puts_the_search_off(self, built_in, min_tokens):
        # "b" comes at tokens 2, 4 and 6; one that comes too early is text.
        detokenizer = Detokenizer(built_in.tokenizer, [], ("b",), min_tokens)
        answer = everything(detokenizer, [[c] for c in b"abababa"])
        end = next((n for n in (2, 4, 6) if n > min_tokens), None)
        assert answer == ("abababa" if end is None else "abababa"[: end - 1])

    def test_a_stop_that_completes_after_min_tokens_counts_whole(self, built_in):
        detokenizer = Detokenizer(built_in.tokenizer, [], ("abc",), 2)
        assert everything(detokenizer, [[c] for c in b"abcd"]) == ""
