"""Tokens as bytes: exact, for every kind of vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from tests.tiny_model.samples import TEXTS
from vgate.frontend.text.token_texts import TokenTexts


@pytest.fixture(scope="module", params=["tiny", "built_in"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_the_bytes_of_a_texts_tokens_are_its_bytes(model, text):
    texts = TokenTexts(model.tokenizer)
    ids = model.encode(text)
    normalized = model.tokenizer.decode(ids, skip_special_tokens=False)
    assert b"".join(map(texts.bytes_of, ids)).decode() == normalized


@given(text=st.text(max_size=30))
def test_any_text(built_in, text):
    texts = TokenTexts(built_in.tokenizer)
    assert b"".join(map(texts.bytes_of, built_in.encode(text))) == text.encode()


def test_part_of_a_character(built_in):
    texts = TokenTexts(built_in.tokenizer)
    first = "é".encode()[0]
    assert texts.bytes_of(first) == bytes([first])
    assert texts.text_of(first) == "\ufffd"


def test_special_tokens_are_their_names(built_in):
    assert TokenTexts(built_in.tokenizer).text_of(256) == "<|end|>"


def test_an_id_that_no_token_has(built_in):
    assert TokenTexts(built_in.tokenizer).text_of(1_000_000) == ""


def test_sentencepiece_spaces_and_bytes():
    vocabulary = {"<unk>": 0, "\u2581the": 1, "<0xC3>": 2, "end": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    texts = TokenTexts(tokenizer)
    assert [texts.bytes_of(token) for token in range(4)] == [b"<unk>", b" the", b"\xc3", b"end"]
