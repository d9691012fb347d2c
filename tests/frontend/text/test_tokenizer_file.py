"""A tokenizer that is read in parts equals the one that the library reads."""

import json
import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from vgate.frontend.text import tokenizer_file
from vgate.frontend.text.tokenizer_file import read_tokenizer


@pytest.fixture
def document(tiny):
    return json.loads(tiny.tokenizer.library.to_str())


@pytest.fixture
def check(monkeypatch):
    """Compare a file's tokenizer with the library's; return whether it was read in parts."""

    def read(document, **options):
        content = json.dumps(document, **options).encode()
        expected = Tokenizer.from_buffer(content).to_str()
        whole = []

        def from_buffer(content):
            whole.append(content)
            return Tokenizer.from_buffer(content)

        library = SimpleNamespace(from_str=Tokenizer.from_str, from_buffer=from_buffer)
        monkeypatch.setattr(tokenizer_file, "Tokenizer", library)
        assert read_tokenizer(content).to_str() == expected
        return not whole

    return read


def odd_tokens():
    """Tokens with everything that JSON escapes, and its delimiters."""
    letters = ['"', "\\", "],[", "[", "é", "\u2028", "\n", " ", "\x00", "😀"]
    vocab = {letter: number for number, letter in enumerate(letters)}
    merges = []
    for left, right in pairwise(letters):
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    return Tokenizer(models.BPE(vocab, merges))


class TestSame:
    @pytest.mark.parametrize(
        "options", [{}, {"indent": 2}, {"ensure_ascii": False}, {"indent": "\t"}]
    )
    def test_with_any_formatting(self, document, check, options):
        assert check(document, **options)
        assert check(json.loads(odd_tokens().to_str()), **options)

    def test_with_merges_in_the_old_format(self, document, check):
        merges = document["model"]["merges"]
        document["model"]["merges"] = [" ".join(pair) for pair in merges]
        assert check(document)

    @pytest.mark.parametrize("joined", ["a", "a b c"])
    def test_with_invalid_merges(self, document, joined):
        document["model"]["merges"] = [joined]
        with pytest.raises(Exception, match=r"."):
            read_tokenizer(json.dumps(document).encode())

    @pytest.mark.parametrize("separators", [None, (" , ", " : ")])
    def test_without_merges(self, document, check, separators):
        document["model"]["merges"] = []
        assert check(document, separators=separators)

    def test_with_every_part_of_a_tokenizer(self, tiny, check):
        tokenizer = Tokenizer.from_str(tiny.tokenizer.library.to_str())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_tokens([AddedToken("plain", normalized=True), AddedToken("<x>", lstrip=True)])
        tokenizer.add_special_tokens([AddedToken("[B]", special=True), "[E]"])
        tokenizer.add_tokens(["and more"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[B] $A [E]",
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[B]", "[E]")],
        )
        tokenizer.enable_truncation(7)
        tokenizer.enable_padding()
        assert check(json.loads(tokenizer.to_str()))

    @pytest.mark.parametrize(
        "options",
        [
            {"unk_token": "a", "fuse_unk": True, "byte_fallback": True},
            {"dropout": 0.5, "ignore_merges": True},
            {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
        ],
    )
    def test_with_other_options(self, document, check, options):
        document["model"] |= options
        assert check(document)

    @given(texts=st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=8, unique=True))
    def test_any_merges(self, texts):
        pairs = list(pairwise(texts))
        for spaced in (False, True):
            raw = json.dumps(pairs, ensure_ascii=spaced, indent=1 if spaced else None)
            merges = tokenizer_file._Merges(raw.encode(), {})
            assert list(merges) == pairs

    @pytest.mark.parametrize("joined", [False, True])
    @pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (" , ", " : ")}])
    def test_merges_cut_anywhere(self, monkeypatch, options, joined):
        pairs = [["],", "],["], ["a", '",'], ['",', '"],["'], ["\\", '\\",["'], ["[[", "]]"]] * 3
        merges = [" ".join(pair) for pair in pairs] if joined else pairs
        raw = json.dumps(merges, **options).encode()
        for size in range(1, len(raw)):
            monkeypatch.setattr(tokenizer_file, "_PIECE_BYTES", size)
            assert [list(m) for m in tokenizer_file._Merges(raw, {})] == pairs

    def test_merges_take_little_memory(self):
        raw = json.dumps([("left", "right")] * 50_000).encode()
        tracemalloc.start()
        try:
            assert sum(1 for _ in tokenizer_file._Merges(raw, {})) == 50_000
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < len(raw) / 2

    def test_a_long_token_is_not_decoded_over_and_over(self, monkeypatch):
        sizes = []
        decode = tokenizer_file._decode_merges

        def decode_merges(piece):
            sizes.append(len(piece))
            return decode(piece)

        monkeypatch.setattr(tokenizer_file, "_decode_merges", decode_merges)
        pair = "a", "],[" * 100_000
        raw = json.dumps([pair]).encode()
        assert list(tokenizer_file._Merges(raw, {})) == [pair]
        assert sum(sizes) < 3 * len(raw)


class TestLeftToTheLibrary:
    def test_other_models(self, check):
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
        assert not check(json.loads(tokenizer.to_str()))

    def test_unknown_fields(self, document, check):
        document["model"]["novel"] = 1
        assert not check(document)

    def test_ids_that_would_change(self, document, check):
        document["added_tokens"][0]["id"] += 1000
        assert not check(document)

    def test_merges_that_are_not_a_list(self, document):
        document["model"]["merges"] = {}
        with pytest.raises(Exception, match=r"."):
            read_tokenizer(json.dumps(document).encode())

    @pytest.mark.parametrize("raw", ["[[1,2]]", "[1]", '[["a"]]', '["a"]', '["a b c"]'])
    def test_invalid_merges(self, raw):
        with pytest.raises(ValueError, match=r"."):
            list(tokenizer_file._Merges(raw.encode(), {}))

    def test_an_invalid_merge_ends_the_reading(self, monkeypatch):
        pieces = []
        decode = tokenizer_file._decode_merges
        monkeypatch.setattr(tokenizer_file, "_PIECE_BYTES", 20)
        monkeypatch.setattr(
            tokenizer_file, "_decode_merges", lambda piece: pieces.append(piece) or decode(piece)
        )
        raw = json.dumps([["a"], *([["a", "b"]] * 1000)]).encode()
        with pytest.raises(ValueError, match=r"."):
            list(tokenizer_file._Merges(raw, {}))
        assert len(pieces) == 1

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_ids_of_added_tokens(self, document, data):
        # Read in parts or not, they get the ids of the file, or those the library gives them.
        known = data.draw(st.lists(st.sampled_from(list(document["model"]["vocab"])[-5:])))
        size = len(document["model"]["vocab"])
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        document["added_tokens"] = [
            {"id": data.draw(st.integers(size - 5, size + 5)), "content": content, **flags}
            for content in dict.fromkeys([*known, "new", "newer"])
        ]
        content = json.dumps(document).encode()
        try:
            expected = Tokenizer.from_buffer(content).to_str()
        except Exception:  # noqa: BLE001 - the library raises no narrower type
            with pytest.raises(Exception, match=r"."):
                read_tokenizer(content)
        else:
            assert read_tokenizer(content).to_str() == expected
