"""Text does not depend on how its tokens are cut, and single tokens are exact bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from tests.frontend.token_ids import chop, token_ids
from tests.tiny_model.samples import TEXTS
from vgate.frontend.text import decode
from vgate.frontend.text.decode import Detokenizer, TokenTexts, _end_of

SAMPLES = [text for text in TEXTS if text]


def everything(detokenizer, parts):
    return "".join(detokenizer.feed(part) for part in parts)


def one_by_one(tokenizer, ids, prompt=(), *, skip=True):
    """Decode as vLLM does: a stream, and a new one after bytes that turned out invalid."""
    stream, text = DecodeStream(ids=list(prompt), skip_special_tokens=skip), []
    for token in ids:
        try:
            text.append(stream.step(tokenizer, token) or "")
        except Exception as error:  # noqa: BLE001 - tokenizers raises no other type
            assert "Invalid prefix" in str(error)  # noqa: PT017
            stream = DecodeStream(skip_special_tokens=skip)
            text.append(stream.step(tokenizer, token) or "")
    return text


class TestText:
    @settings(deadline=None)
    @given(data=st.data())
    def test_any_tokens_in_any_parts_decode_as_by_a_stream(self, model, data):
        ids = data.draw(token_ids(model))
        text = everything(Detokenizer(model.token_texts, []), chop(data, ids))
        assert text == "".join(one_by_one(model.tokenizer.library, ids))

    @settings(deadline=None, max_examples=300)
    @given(data=st.data(), skip=st.booleans())
    def test_any_tokens_after_any_prompt_decode_as_by_a_stream(self, model, data, skip):
        # Also where the prompt ends, or the vocabulary does, inside a character.
        known = st.integers(0, model.tokenizer.vocab_size)
        pool = st.sampled_from(data.draw(st.lists(known, min_size=1)))
        prompt, ids = data.draw(st.lists(pool, max_size=12)), data.draw(st.lists(pool, max_size=12))
        end = _end_of(prompt, model.tokenizer)
        expected = one_by_one(model.tokenizer.library, ids, end, skip=skip)
        detokenizer = Detokenizer(model.token_texts, prompt, skip_special_tokens=skip)
        assert [detokenizer.feed([token]) for token in ids] == expected
        again = Detokenizer(model.token_texts, prompt, skip_special_tokens=skip)
        assert again.feed_all(ids) == "".join(expected)

    def test_the_table_of_texts_is_bounded(self, tiny, monkeypatch):
        monkeypatch.setattr(decode, "_MAX_TEXTS", 3)
        texts, ids = (
            TokenTexts(tiny.tokenizer),
            tiny.tokenizer.encode("one two three four five six seven"),
        )
        assert len(ids) > 3
        for _ in range(2):
            assert everything(Detokenizer(texts, []), [[i] for i in ids]) == (
                tiny.tokenizer.decode(ids)
            )
            assert len(texts.table(skip_special_tokens=True)) <= 3

    @pytest.mark.parametrize("text", SAMPLES)
    def test_encoding_and_decoding_returns_the_text(self, model, text):
        ids = model.tokenizer.encode(text)
        assert everything(Detokenizer(model.token_texts, []), [[i] for i in ids]) == (
            model.tokenizer.decode(ids)
        )

    @settings(deadline=None)
    @given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), data=st.data())
    def test_any_text_is_decoded_from_any_parts(self, model, text, data):
        ids = model.tokenizer.encode(text)
        expected = model.tokenizer.decode(ids)
        assert everything(Detokenizer(model.token_texts, []), chop(data, ids)) == expected

    @settings(deadline=None)
    @given(data=st.data())
    def test_the_end_of_the_prompt_is_enough(self, model, data):
        message = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
        answer = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
        prompt = model.tokenizer.encode(
            model.template.render([{"role": "user", "content": message}])
        )
        ids = model.tokenizer.encode(answer)
        stream = DecodeStream(ids=prompt, skip_special_tokens=True)
        whole = "".join(stream.step(model.tokenizer.library, token) or "" for token in ids)
        assert everything(Detokenizer(model.token_texts, prompt), [ids]) == whole

    @pytest.mark.parametrize("text", SAMPLES)
    @pytest.mark.parametrize("padding", range(4))
    def test_an_answer_that_repeats_the_prompt_is_complete(self, model, text, padding):
        # The tokens that prime the stream may begin inside a character.
        message = text + "x" * padding
        prompt = model.tokenizer.encode(
            model.template.render([{"role": "user", "content": message}])
        )
        ids = model.tokenizer.encode(text)
        answer = everything(Detokenizer(model.token_texts, prompt), [[i] for i in ids])
        assert answer == model.tokenizer.decode(ids)

    def test_special_tokens_are_skipped(self, tiny):
        end = tiny.tokenizer.token_to_id("<|im_end|>")
        ids = [*tiny.tokenizer.encode("Hello"), end, *tiny.tokenizer.encode(" you")]
        assert everything(Detokenizer(tiny.token_texts, []), [ids]) == "Hello you"

    def test_a_character_waits_for_its_last_byte(self, built_in):
        detokenizer = Detokenizer(built_in.token_texts, [])
        assert [detokenizer.feed([byte]) for byte in "é😀".encode()] == [
            "",
            "é",
            "",
            "",
            "",
            "😀",
        ]

    def test_bytes_that_never_become_a_character_are_not_shown(self, built_in):
        detokenizer = Detokenizer(built_in.token_texts, [])
        assert everything(detokenizer, [list(b"ok" + "😀".encode()[:3])]) == "ok"

    def test_a_prompt_that_ends_inside_a_character_is_continued(self, built_in):
        # As in a raw completion: the first token completes what the prompt began.
        first, *rest = "é".encode()
        detokenizer = Detokenizer(built_in.token_texts, [first])
        assert everything(detokenizer, [[*rest, ord("a")]]).endswith("a")


class TestFeedAll:
    @settings(deadline=None, max_examples=300)
    @given(data=st.data())
    def test_any_tokens_at_once_equal_one_by_one(self, model, data):
        ids, prompt = data.draw(token_ids(model)), data.draw(token_ids(model))
        for skip in (True, False):
            whole = Detokenizer(model.token_texts, prompt, skip_special_tokens=skip)
            stepped = Detokenizer(model.token_texts, prompt, skip_special_tokens=skip)
            assert whole.feed_all(ids) == stepped.feed(ids)

    @pytest.mark.parametrize("text", SAMPLES)
    def test_texts(self, model, text):
        ids = model.tokenizer.encode(text)
        for cut in (0, len(ids) // 2, len(ids) - 1):
            whole = Detokenizer(model.token_texts, ids[:cut])
            stepped = Detokenizer(model.token_texts, ids[:cut])
            assert whole.feed_all(ids[cut:]) == stepped.feed(ids[cut:])


class TestTokenTexts:
    @pytest.mark.parametrize("text", SAMPLES)
    def test_bytes_of_all_tokens_are_the_bytes_of_the_text(self, model, text):
        ids = model.tokenizer.encode(text)
        normalized = model.tokenizer.decode(ids, skip_special_tokens=False)
        assert b"".join(map(model.token_texts.bytes_of, ids)).decode() == normalized

    @given(text=st.text(max_size=30))
    def test_any_text(self, built_in, text):
        assert (
            b"".join(map(built_in.token_texts.bytes_of, built_in.tokenizer.encode(text)))
            == text.encode()
        )

    def test_part_of_a_character(self, built_in):
        first = "é".encode()[0]
        assert built_in.token_texts.bytes_of(first) == bytes([first])
        assert built_in.token_texts.text_of(first) == "\ufffd"

    def test_the_text_of_a_special_token_is_its_name(self, built_in):
        assert built_in.token_texts.text_of(256) == "<|end|>"

    def test_an_unknown_id(self, built_in):
        assert built_in.token_texts.text_of(1_000_000) == ""
