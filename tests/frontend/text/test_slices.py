"""Cut into slices, every text has the tokens of the whole; what isn't needed is left out."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from tests.frontend.text.test_piece_encoder import KINDS, MARKERS, ODD, tokenizer_of
from vgate.errors import InvalidValueError
from vgate.frontend.text import TokenLimit, TooManyTokensError, library_tokenizer, piece_encoder
from vgate.frontend.text import slices as slices_module
from vgate.frontend.text.library_tokenizer import LibraryTokenizer
from vgate.frontend.text.slices import Slices

# What cuts are made at, and what makes them unsafe.
PARTS = [*MARKERS, *ODD, "a", "Zb", "1", "22", " ", "\n", ".", '":"', "é", "中", "，", "don't", "_"]
LONG = st.lists(
    st.one_of(
        st.sampled_from(PARTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    ),
    min_size=8,
    max_size=60,
).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(tiny, kind):
    return LibraryTokenizer(tokenizer_of(tiny, kind))


@pytest.fixture
def small(monkeypatch):
    """Let slices be so short that most texts have several."""
    for module in (slices_module, piece_encoder, library_tokenizer):
        monkeypatch.setattr(module, "SLICE_CHARS", 3)
    monkeypatch.setattr(slices_module, "_SEARCH_CHARS", 2)
    monkeypatch.setattr(piece_encoder, "_SEARCH_CHARS", len(max(MARKERS, key=len)) + 1)


def native(tokenizer, text, *, special=False):
    return tokenizer.library.encode(text, add_special_tokens=special).ids


@pytest.mark.usefixtures("small")
class TestSlices:
    @settings(max_examples=200, deadline=None)
    @given(text=LONG)
    def test_slices_have_the_tokens_of_the_whole(self, tokenizer, text):
        assert tokenizer.encode(text) == native(tokenizer, text)
        assert tokenizer.encode_batch([text], special=True) == [
            native(tokenizer, text, special=True)
        ]

    @settings(max_examples=100, deadline=None)
    @example(text="|><<|im_end|>", keep=1, side="left")
    @given(text=LONG, keep=st.integers(1, 30), side=st.sampled_from(["left", "right"]))
    def test_a_limit_keeps_the_tokens_of_its_side(self, tokenizer, text, keep, side):
        limit = TokenLimit(keep, side)
        whole = native(tokenizer, text)
        assert limit.cut(tokenizer.encode(text, limit)) == limit.cut(whole)
        assert tokenizer.encode_batch([text], special=False, limit=limit) == [limit.cut(whole)]

    @settings(max_examples=100, deadline=None)
    @given(text=LONG, keep=st.integers(1, 30))
    def test_a_limit_that_refuses_gives_all_or_nothing(self, tokenizer, text, keep):
        whole, found, least = native(tokenizer, text), None, 0
        try:
            found = tokenizer.encode(text, TokenLimit(keep, refuses=True))
        except TooManyTokensError as error:
            least = error.tokens
        assert found == whole or keep < least <= len(whole)

    def test_the_text_at_fault_is_named(self, tokenizer):
        texts = ["a", "a <|im_start|> b" * 20, "a"]
        with pytest.raises(TooManyTokensError) as error:
            tokenizer.encode_batch(texts, special=False, limit=TokenLimit(5, refuses=True))
        assert error.value.index == 1

    def test_most_texts_are_cut(self, tokenizer, kind):
        parts = list(Slices(tokenizer.library, ()).of("one two.three\nfour5 six" * 9))
        assert (len(parts) > 9) == (kind != "prepended")  # which has no words
        assert "".join(parts) == "one two.three\nfour5 six" * 9


@settings(max_examples=100, deadline=None)
@given(text=LONG)
def test_no_text_has_fewer_tokens_than_the_least(tokenizer, text):
    assert tokenizer.least_tokens(text) <= len(native(tokenizer, text))


def test_the_least_is_known_where_no_character_is_dropped(tokenizer, kind):
    dropping = {"removed", "first", "always", "prepended"}
    assert bool(tokenizer.least_tokens("a")) == (kind not in dropping)


def test_a_tokenizer_with_longest_words_gives_a_tight_least(tiny):
    longest = max(tiny.tokenizer.library.get_vocab(), key=len)
    assert tiny.tokenizer.least_tokens("a" * len(longest)) == 1
    assert tiny.tokenizer.least_tokens("a" * (len(longest) + 1)) == 2
    # Four characters may be normalised to one.
    assert tiny.tokenizer.least_tokens("é" * 4 * len(longest)) == 1


@pytest.mark.parametrize(
    "expression", [r"\w+ \w+|\s+", r"(?<= )\w+", r"\p{L}+\p{N}+|[^\s]+\n\w+|\w+[.,!-/]\w?"]
)
def test_words_across_a_cut_are_noticed(expression, monkeypatch):
    monkeypatch.setattr(slices_module, "SLICE_CHARS", 3)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(expression), "isolated")
    find = tokenizer.pre_tokenizer.pre_tokenize_str
    text = "ab cd.ef\ngh12 ij, kl" * 9
    words = [word for part in Slices(tokenizer, ()).of(text) for word, _ in find(part)]
    assert words == [word for word, _ in find(text)]


def test_no_cut_divides_an_added_token(monkeypatch):
    monkeypatch.setattr(slices_module, "SLICE_CHARS", 2)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer()
    parts = list(Slices(tokenizer, ["[MASK]", "a1"]).of("x [MASK] a1 y, z" * 9))
    assert len(parts) > 9
    assert not any(part.startswith(("]", "1")) for part in parts)


def test_a_text_without_a_cut_has_a_bound(built_in, monkeypatch):
    monkeypatch.setattr(slices_module, "MAX_UNCUT_CHARS", 100_000)
    assert len(built_in.tokenizer.encode("a b" * 30_000)) == 90_000
    with pytest.raises(InvalidValueError, match="100000 characters in a row"):
        built_in.tokenizer.encode("a b" * 40_000)
