"""The contract of `vgate.frontend.text.tokenizer.Tokenizer`, for every implementation."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, processors

from tests.frontend.text.bytes_tokenizer import BytesTokenizer
from tests.tiny_model.samples import TEXTS
from vgate.errors import InvalidValueError
from vgate.frontend.text.decode import Detokenizer, TokenTexts
from vgate.frontend.text.library_tokenizer import LibraryTokenizer
from vgate.frontend.text.tokenizer import Tokenizer, TokenLimit, TooMuchAtOnceError

UNKNOWN = 10_000_000
# U+FFFD stands for bytes that are no character: a stream holds it back, for more may come.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=40)


def framed(tiny):
    """The tiny model's tokenizer, with special tokens around a text."""
    library = tokenizers.Tokenizer.from_str(tiny.tokenizer.library.to_str())
    around = ["<|im_start|>", "<|im_end|>"]
    library.post_processor = processors.TemplateProcessing(
        single=f"{around[0]} $A {around[1]}",
        special_tokens=[(token, library.token_to_id(token)) for token in around],
    )
    return LibraryTokenizer(library)


def sentencepiece():
    """A vocabulary as SentencePiece makes them: with visible spaces, and a token for each byte."""
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581theabc"]
    tokens += ["th", "the", "\u2581the"]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    library = tokenizers.Tokenizer(model)
    library.normalizer = normalizers.Replace(" ", "\u2581")
    library.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    library.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>")])
    return LibraryTokenizer(library)


# A special token of each, and the number of special tokens around a text.
KINDS: dict[str, tuple[Callable[..., Tokenizer], str, int]] = {
    "byte_level": (lambda tiny, _: tiny.tokenizer, "<|im_end|>", 0),
    "framed": (lambda tiny, _: framed(tiny), "<|im_end|>", 2),
    "dry_run": (lambda _, built_in: built_in.tokenizer, "<|end|>", 0),
    "sentencepiece": (lambda *_: sentencepiece(), "<s>", 0),
    "bytes": (lambda *_: BytesTokenizer(), "<end>", 1),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind, tiny, built_in) -> Tokenizer:
    return KINDS[kind][0](tiny, built_in)


@pytest.fixture(scope="module")
def special(kind) -> str:
    return KINDS[kind][1]


@pytest.fixture(scope="module")
def around(kind) -> int:
    return KINDS[kind][2]


def plain(tokenizer, text):
    (ids,) = tokenizer.encode_batch([text], special=False)
    return ids


class TestEncode:
    @settings(deadline=None)
    @given(text=TEXT)
    def test_all_ways_to_encode_return_the_same_ids(self, tokenizer, special, text):
        for rendered in (text, f"{special}{text}{special}", f"{text}{special}{text}"):
            ids = plain(tokenizer, rendered)
            with suppress(TooMuchAtOnceError):
                assert tokenizer.encode_within(rendered, 5) == ids
            assert tokenizer.encode(rendered) == ids
            assert tokenizer.encode_within(rendered, len(rendered)) == ids

    def test_no_text(self, tokenizer):
        assert tokenizer.encode("") == []
        assert tokenizer.encode_within("", 0) == []
        assert tokenizer.encode_batch([], special=True) == []

    def test_a_long_new_text_is_not_encoded(self, tokenizer, special):
        text = f"{special}{'never seen '.join(['a'] * 20)}"
        with pytest.raises(TooMuchAtOnceError):
            tokenizer.encode_within(text, 50)

    def test_a_special_token_is_one_token(self, tokenizer, special):
        token = tokenizer.token_to_id(special)
        assert tokenizer.encode(special) == plain(tokenizer, special) == [token]

    def test_a_shielded_text_has_no_special_token_in_a_conversation(self, tokenizer, special):
        token = tokenizer.token_to_id(special)
        rendered = f"{special}{tokenizer.shielded(f'a {special}')}{special}"
        ids = tokenizer.encode(rendered)
        assert ids == plain(tokenizer, rendered)
        assert ids.count(token) == 2
        assert tokenizer.decode(ids, skip_special_tokens=False) == f"{special}a {special}{special}"
        assert tokenizer.shielded("a <b>") == "a <b>"

    def test_from_several_threads(self, tokenizer, special):
        texts = [f"{special}{text}{special}{number % 7}" for number in range(5) for text in TEXTS]
        expected = [plain(tokenizer, text) for text in texts]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(tokenizer.encode, texts)) == expected


class TestBatch:
    def test_special_tokens_around_a_text(self, tokenizer, around):
        texts = ["the", "", "a the a"]
        with_special = tokenizer.encode_batch(texts, special=True)
        without = tokenizer.encode_batch(texts, special=False)
        assert [len(ids) - around for ids in with_special] == list(map(len, without))

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("add", [True, False])
    @pytest.mark.parametrize("room", [1, 3, 1000])
    def test_truncation_keeps_the_special_tokens(self, tokenizer, around, side, add, room):
        keep = room + (around if add else 0)
        texts = ["the cab at the beach", "a", ""]
        found = tokenizer.encode_batch(texts, special=add, limit=TokenLimit(keep, side))
        for text, ids in zip(texts, found, strict=True):
            kept = TokenLimit(room, side).cut(plain(tokenizer, text))
            assert len(ids) == len(kept) + (around if add else 0)
            assert not kept or any(
                ids[start : start + len(kept)] == kept for start in range(len(ids))
            )

    def test_a_limit_that_the_special_tokens_exceed(self, tokenizer, around):
        with pytest.raises(InvalidValueError, match="truncate_prompt_tokens"):
            tokenizer.encode_batch(["a"], special=True, limit=TokenLimit(around, "right"))


class TestDecode:
    @settings(deadline=None)
    @given(text=TEXT)
    @example(text="<|user|>")
    def test_encoding_and_decoding_returns_the_text(self, tokenizer, text):
        normal = tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False)
        ids = tokenizer.encode(normal)
        assert tokenizer.decode(ids, skip_special_tokens=False) == normal
        assert b"".join(map(tokenizer.bytes_of, ids)) == normal.encode()
        step = tokenizer.decode_stream(skip_special_tokens=False)
        assert "".join(step(token) or "" for token in ids) == normal

    def test_special_tokens_are_skipped_or_shown(self, tokenizer, special):
        ids = tokenizer.encode(f"a{special}b")
        for skip, text in ((True, "ab"), (False, f"a{special}b")):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == text
            step = tokenizer.decode_stream(skip_special_tokens=skip)
            assert "".join(step(token) or "" for token in ids) == text

    def test_a_prompt_is_not_part_of_the_text(self, tokenizer):
        step = tokenizer.decode_stream(tokenizer.encode("the"))
        assert "".join(step(token) or "" for token in tokenizer.encode(" the")) == " the"

    @settings(deadline=None)
    @given(data=st.data())
    def test_any_tokens_are_decoded_or_a_new_stream_is_needed(self, tokenizer, data):
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
        step = tokenizer.decode_stream()
        for token in ids:
            try:
                step(token)
            except Exception as error:  # noqa: BLE001 - any, if `lost_track` knows it
                assert tokenizer.lost_track(error)  # noqa: PT017
                step = tokenizer.decode_stream()
        detokenizer = Detokenizer(TokenTexts(tokenizer), [])
        assert isinstance(detokenizer.feed(ids), str)

    def test_other_errors_are_not_a_lost_track(self, tokenizer):
        assert not tokenizer.lost_track(ValueError("other"))


class TestVocabulary:
    def test_ids_and_spellings(self, tokenizer, special):
        token = tokenizer.token_to_id(special)
        assert tokenizer.id_to_token(token) == special
        assert tokenizer.bytes_of(token) == special.encode()
        assert max(tokenizer.encode(f"the{special}")) < tokenizer.vocab_size

    def test_unknown_ids_and_tokens(self, tokenizer):
        assert tokenizer.id_to_token(UNKNOWN) is None
        assert tokenizer.bytes_of(UNKNOWN) == b""
        assert tokenizer.token_to_id("no such token") is None

    def test_byte_level_tokens_do_not_depend_on_each_other(self, tokenizer):
        if not tokenizer.byte_level:
            return
        ids = tokenizer.encode("the cab at the beach")
        assert "".join(tokenizer.decode([token]) for token in ids) == tokenizer.decode(ids)
