"""Piece by piece and word by word, every text gets the tokenizer's own tokens."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product, starmap

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from tests.tiny_model.samples import TEXTS
from vgate.frontend.text import piece_encoder, word_encoder
from vgate.frontend.text.piece_encoder import PieceEncoder
from vgate.frontend.text.tokenizer import TooMuchAtOnceError
from vgate.frontend.text.word_encoder import ascii_pattern
from vgate.wire.codec import pack_token_ids, unpack_token_ids

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_TAIL}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_TAIL}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Leaves the rest of the text uncut.
GAPS = r"\p{L}+"
MARKERS = ["<|im_start|>", "<|im_end|>", "<|im_end|>!", "<|im|>"]
ODD = ["<|im_start", "|>", "<", "'s", "'LL", "'", "  ", "\n\n", "\r\n", "\t", "\x1c", "\x85", "é",
       "世", "😀", "e\u0301", "\u212a", "ſ", "\0", "1234", "HTTPServer", " x", "\xa0"]  # fmt: skip

TEXT = st.lists(
    st.one_of(
        st.sampled_from(MARKERS + ODD),
        st.text(st.characters(codec="ascii"), max_size=12),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    max_size=12,
).map("".join)


def byte_level(pattern=QWEN, normalizer=None):
    """Return a pre-tokenizer and normalizer as models with byte-level vocabularies have them."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, own]), normalizer


KINDS = {
    "qwen": byte_level(QWEN, normalizers.NFC()),
    "llama": byte_level(LLAMA),
    "o200k": byte_level(O200K),
    "gaps": byte_level(GAPS),
    "compatible": byte_level(QWEN, normalizers.Sequence([normalizers.NFKD(), normalizers.NFC()])),
    "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "prefixed": (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
    "lower": byte_level(QWEN, normalizers.Lowercase()),
    "digits": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        None,
    ),
    "prepended": (
        None,
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
    "first": (pre_tokenizers.Metaspace(prepend_scheme="first"), None),
    "always": (pre_tokenizers.Metaspace(prepend_scheme="always"), None),
    "removed": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN), "removed"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        None,
    ),
}  # fmt: skip
WITH_WORDS = {"qwen", "llama", "o200k", "compatible", "gpt2"}
WITH_PIECES = set(KINDS) - {"first", "always"}


def bpe(tiny, **options):
    """Return the tiny model's BPE with other options."""
    document = json.loads(tiny.tokenizer.library.to_str())["model"]
    vocab, merges = document["vocab"], [tuple(pair) for pair in document["merges"]]
    if options.pop("metaspace", False):
        vocab = {token.replace("Ġ", "▁"): number for token, number in vocab.items()}
        merges = [tuple(part.replace("Ġ", "▁") for part in pair) for pair in merges]
    return models.BPE(vocab=vocab, merges=merges, **options)


def tokenizer_of(tiny, kind, added=None):
    pre_tokenizer, normalizer = KINDS[kind]
    tokenizer = Tokenizer(bpe(tiny, metaspace=kind in {"prepended", "first", "always"}))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    for token in added if added is not None else [AddedToken(m, special=True) for m in MARKERS]:
        tokenizer.add_tokens([token])
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(tiny, kind):
    return tokenizer_of(tiny, kind)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return PieceEncoder(tokenizer)


def native(tokenizer, text):
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


class TestSameTokens:
    @settings(deadline=None, max_examples=150)
    @given(texts=st.lists(TEXT, min_size=1, max_size=3))
    @example(texts=["<|im_end|>!<|im_end|><|im|><|im_start", "x<|im_end|>"])
    @example(texts=["a  b\n \n c  <|im|>  d", "", " "])
    def test_for_every_kind_of_tokenizer(self, tokenizer, encoder, texts):
        # Again from the cache.
        for text in texts * 2:
            ids = encoder.encode(text)
            assert ids == native(tokenizer, text)
            assert unpack_token_ids(pack_token_ids(ids)) == ids

    def test_which_tokenizers_are_supported(self, kind, encoder):
        assert (encoder._words is not None) == (kind in WITH_WORDS)
        assert (encoder._special is not None) == (kind in WITH_PIECES)

    @pytest.mark.parametrize("model", ["tiny", "built_in"])
    @pytest.mark.parametrize("text", TEXTS)
    def test_for_the_models(self, request, model, text):
        model = request.getfixturevalue(model)
        for shown in (
            text,
            f"<|im_start|>user\n{text}<|im_end|>\n{text}",
            f"<|user|>{text}<|end|>",
        ):
            for _ in range(2):
                assert model.tokenizer.encode(shown) == native(model.tokenizer.library, shown)

    def test_only_uncached_characters_count(self, tiny):
        encoder = PieceEncoder(tiny.tokenizer.library)
        text = "<|im_start|>é word<|im_end|>other<|im_start|>é word<|im_end|>"
        new = len("é wordother")
        with pytest.raises(TooMuchAtOnceError):
            encoder.encode_within(text, new - 1)
        assert encoder.encode_within(text, new) == native(tiny.tokenizer.library, text)
        assert encoder.encode_within(text, 0) == native(tiny.tokenizer.library, text)
        more = f"{text}more"
        with pytest.raises(TooMuchAtOnceError):
            encoder.encode_within(more, 3)
        assert encoder.encode_within(more, 4) == native(tiny.tokenizer.library, more)

    def test_each_call_leaves_less_to_do(self, tiny):
        encoder = PieceEncoder(tiny.tokenizer.library)
        text = "four<|im_start|>three<|im_start|>words<|im_start|>twelve chars"
        for left in (True, True, False):
            with pytest.raises(TooMuchAtOnceError) as error:
                encoder.encode_within(text, 9)
            assert error.value.less_is_left == left
        assert encoder.encode_within(text, 12) == native(tiny.tokenizer.library, text)

    def test_without_pieces_all_characters_count(self, tiny):
        tokenizer = tokenizer_of(tiny, "always")
        encoder, text = PieceEncoder(tokenizer), "a<|im_end|>b"
        with pytest.raises(TooMuchAtOnceError):
            encoder.encode_within(text, 11)
        assert encoder.encode_within(text, 12) == native(tokenizer, text)

    def test_from_several_threads(self, tiny, monkeypatch):
        # So small that threads evict each other's pieces.
        monkeypatch.setattr(piece_encoder, "_MAX_BYTES", 3_000)
        encoder = PieceEncoder(tiny.tokenizer.library)
        texts = [f"<|im_end|>turn {number}<|im_end|>shared" for number in range(20)] * 20
        expected = [native(tiny.tokenizer.library, text) for text in texts]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(encoder.encode, texts)) == expected
        assert encoder._bytes == sum(starmap(piece_encoder._size, encoder._kept.items()))

    @pytest.mark.parametrize(
        "token",
        [
            AddedToken("<|im|>", lstrip=True, normalized=False),
            AddedToken("<|im|>", rstrip=True, normalized=False),
            AddedToken("<|im|>", single_word=True, normalized=False),
            AddedToken("Word", normalized=True),
            AddedToken("wor", normalized=True, lstrip=True),
            AddedToken("<|im|>", special=True, normalized=True),
        ],
        ids=str,
    )
    def test_with_added_tokens_that_look_around(self, tiny, token):
        others = [
            AddedToken("<|e|>", special=True, normalized=False),
            AddedToken("d a", normalized=False),
        ]
        tokenizer = tokenizer_of(tiny, "lower", [token, *others])
        encoder = PieceEncoder(tokenizer)
        parts = ["<|im|>", "a", " ", "Word", "word", "<|e|>", "\n"]
        for chosen in product(parts, repeat=4):
            text = "".join(chosen)
            assert encoder.encode(text) == native(tokenizer, text)

    def test_with_dropout_there_are_no_pieces(self, tiny):
        assert piece_encoder.special_tokens(Tokenizer(bpe(tiny, dropout=0.5))) is None

    def test_special_tokens_can_be_encoded_as_text(self, tiny):
        tokenizer = tokenizer_of(tiny, "qwen")
        tokenizer.encode_special_tokens = True
        encoder = PieceEncoder(tokenizer)
        assert encoder.encode("<|im_end|>") == native(tokenizer, "<|im_end|>")


class TestBounds:
    def test_the_cache_of_pieces_is_bounded(self, tiny, monkeypatch):
        monkeypatch.setattr(piece_encoder, "_MAX_BYTES", 10_000)
        encoder = PieceEncoder(tiny.tokenizer.library)
        for number in range(200):
            encoder.encode(f"<|im_start|>text {number}<|im_end|>shared")
            assert encoder._bytes <= 10_000
        assert encoder._bytes == sum(starmap(piece_encoder._size, encoder._kept.items()))
        # The pieces that are used stay.
        texts = ("shared", "text 199", "text 0")
        assert [text for text in texts if ("", text) in encoder._kept] == ["shared", "text 199"]
        encoder.encode("x" * 10_000)
        assert ("", "shared") in encoder._kept

    def test_the_library_keeps_few_words_where_a_word_is_a_whole_text(self):
        vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
        encoder = PieceEncoder(Tokenizer(models.BPE(vocabulary, [], byte_fallback=True)))
        used = psutil.Process().memory_info
        for text in (f"{number:0240}" for number in range(2000)):
            encoder.encode(text, scope=None)
        before = used().rss
        for text in (f"{number:0240}" for number in range(2000, 9000)):
            encoder.encode(text, scope=None)
        assert used().rss - before < 8 * 1024 * 1024

    def test_pieces_are_shared_within_a_scope_only(self, tiny):
        encoder = PieceEncoder(tiny.tokenizer.library)
        text = "<|im_start|>" + "a secret " * 50
        ids = encoder.encode(text, scope="one")
        for scope in ("two", "", None):
            with pytest.raises(TooMuchAtOnceError):
                encoder.encode_within(text, 100, scope=scope)
        assert encoder.encode_within(text, 100, scope="one") == ids
        assert encoder.encode(text, scope="two") == ids

    def test_without_a_scope_nothing_is_kept(self, tiny):
        encoder = PieceEncoder(tiny.tokenizer.library)
        assert encoder.encode("a secret", scope=None) == native(tiny.tokenizer.library, "a secret")
        assert not encoder._kept

    def test_the_cache_of_words_is_bounded(self, tiny, monkeypatch):
        monkeypatch.setattr(word_encoder, "_MAX_WORDS", 20)
        words = PieceEncoder(tiny.tokenizer.library)._words
        for number in range(100):
            text = f"word{number} {'y' * number}"
            assert words.encode(text) == native(tiny.tokenizer.library, text)
            assert len(words._known) <= 20
            assert max(map(len, words._known)) <= word_encoder._MAX_WORD_CHARS

    def test_a_text_of_new_words_is_left_to_the_tokenizer(self, tiny):
        text = " ".join(f"new{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(200))
        encoder = PieceEncoder(tiny.tokenizer.library)
        assert encoder._words.encode(text) is None
        assert encoder.encode(text) == native(tiny.tokenizer.library, text)

    def test_a_very_long_piece_is_left_to_the_tokenizer(self, tiny, monkeypatch):
        # Python's expressions hold the GIL, the tokenizer doesn't.
        monkeypatch.setattr(piece_encoder, "_MAX_WORD_CHARS", 20)
        encoder = PieceEncoder(tiny.tokenizer.library)
        assert encoder.encode("word " * 10) == native(tiny.tokenizer.library, "word " * 10)
        assert not encoder._words._known


class TestPattern:
    @pytest.mark.parametrize("source", [QWEN, LLAMA, O200K, word_encoder._GPT2, GAPS])
    def test_common_expressions_are_translated(self, source):
        assert ascii_pattern(source) is not None

    @pytest.mark.parametrize(
        "source",
        [
            "a++",
            "a{1,2}+",
            "a??",
            r"\p{Greek}",
            r"\P{L}",
            "[a&&b]",
            "[[a]]",
            "(a)",
            "(?<n>a)",
            "(?m:a)",
            ".",
            "^a",
            r"\h",
            r"\w",
            "[a-é]",
            "(?:a",
            "",
        ],
    )
    def test_ambiguous_expressions_are_not_translated(self, source):
        pattern = ascii_pattern(source)
        assert pattern is None or pattern == re.compile("", re.ASCII)

    def test_a_pattern_that_splits_differently_is_detected(self, tiny, monkeypatch):
        monkeypatch.setitem(word_encoder._PROPERTIES, "N", "1-9")
        assert word_encoder.word_encoder(tiny.tokenizer.library) is None


@pytest.mark.parametrize("kind", sorted(WITH_PIECES))
@settings(deadline=None)
@given(text=TEXT)
@example(text="<|im_end|>!")
@example(text="<|im_start|>" * 3)
def test_what_is_shielded_has_the_tokens_of_any_text(tiny, kind, text):
    tokenizer = tokenizer_of(tiny, kind)
    pieces = PieceEncoder(tokenizer)
    ordinary = Tokenizer.from_str(tokenizer.to_str())
    ordinary.encode_special_tokens = True
    ids = pieces.encode(pieces.shielded(text))
    assert ids == ordinary.encode(text, add_special_tokens=False).ids
    # Around it there are special tokens.
    (mark,) = pieces.encode("<|im|>")
    assert pieces.encode(f"<|im|>{pieces.shielded(text)}<|im|>") == [mark, *ids, mark]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - WITH_PIECES))
def test_nothing_is_shielded_where_a_tokenizer_needs_a_whole_text(tiny, kind):
    assert PieceEncoder(tokenizer_of(tiny, kind)).shielded("<|im|>") == "<|im|>"


def test_what_is_shielded_in_a_long_text(tiny, monkeypatch):
    monkeypatch.setattr(piece_encoder, "_SEARCH_CHARS", 16)
    pieces = PieceEncoder(tokenizer_of(tiny, "qwen"))
    for before in range(40):
        text = "x" * before + "<|im_end|>!<|im<|im|>"
        shielded = pieces.shielded(text)
        assert shielded.replace(piece_encoder.SHIELD, "") == text
        assert pieces._find(shielded) is None
        assert pieces.shielded("x" * before) == "x" * before


def test_tokens_that_begin_within_others_are_shielded(tiny):
    added = [AddedToken(token, special=True) for token in ("<ab", "b<>")]
    pieces = PieceEncoder(tokenizer_of(tiny, "qwen", added))
    assert pieces._find(pieces.shielded("<ab<>")) is None


def test_a_word_that_a_tokenizer_keeps_whole_is_not_shielded(tiny):
    special = [AddedToken(token, special=True) for token in MARKERS]
    tokenizer = tokenizer_of(tiny, "qwen", [*special, AddedToken("word", normalized=False)])
    pieces = PieceEncoder(tokenizer)
    assert pieces.shielded("a word<|im_end|>") == f"a word<{piece_encoder.SHIELD}|im_end|>"
    assert tokenizer.token_to_id("word") in pieces.encode(pieces.shielded("a word<|im_end|>"))
