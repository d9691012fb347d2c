"""JSON that is decoded in pieces is what msgspec makes of it at once, wherever it is cut."""

import gc
import json
import re
import time
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.frontend.http import decode_json, is_costly, json_pieces

CHARACTERS = 'a"\\,:{[]}/\n\t\x7fé中😀\u2028\0'
TEXTS = st.text(st.sampled_from(CHARACTERS), max_size=40)
KEYS = st.text(st.sampled_from('a"\\b,{'), max_size=3)
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=40,
)
# In which objects have keys twice, which no dict has.
PAIRED = st.recursive(
    st.integers(0, 9).map(str) | TEXTS.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=6).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(KEYS.map(json.dumps), inner), max_size=6).map(
            lambda pairs: "{" + ",".join(f"{key} : {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=30,
)
SIZES = st.tuples(st.integers(1, 20), st.integers(13, 40))
LONG = "ab" * 60_000


def small_pieces(patch, sizes):
    """Cut documents of a few bytes as if they were long."""
    piece_bytes, slice_bytes = sizes
    patch.setattr(json_pieces, "_PIECE_BYTES", piece_bytes)
    patch.setattr(json_pieces, "_SLICE_BYTES", slice_bytes)
    patch.setattr(json_pieces, "_FEW_EXPONENTS", 0)
    patch.setattr(json_pieces, "is_costly", lambda _: True)


def outcome(decode, document):
    """Return a document as text, which tells 1 from 1.0 and keeps the order, or what is wrong."""
    try:
        return repr(decode(document))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if "has a key of more than" in str(error):
            return "long key"
        # In a text that isn't UTF-8 and no JSON either, one or the other is found first.
        return "too large" if isinstance(error, msgspec.ValidationError) else "not JSON"


def check(document, sizes):
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch, sizes)
        in_pieces = outcome(decode_json, document)
    if in_pieces != "long key":
        assert in_pieces == outcome(msgspec.json.decode, document)


@settings(deadline=None)
@given(DOCUMENTS, SIZES, st.booleans(), st.sampled_from([None, 1, 7]))
def test_every_document_is_equal(document, sizes, escaped, indent):
    text = json.dumps(document, ensure_ascii=escaped, indent=indent).encode()
    check(text, sizes)
    assert json.loads(text) == document


@settings(deadline=None)
@given(PAIRED, SIZES)
def test_of_equal_keys_the_last_one_counts(text, sizes):
    check(text.encode(), sizes)


@settings(deadline=None)
@given(PAIRED | DOCUMENTS.map(json.dumps), SIZES, st.data())
def test_what_is_wrong_is_refused(text, sizes, data):
    document = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(document)))
        more = data.draw(
            st.sampled_from([b"", *(bytes([c]) for c in b'",:{}[]\\0eu-. \n\xff\xe4')])
        )
        document[at : at + data.draw(st.integers(0, 2))] = more
    check(bytes(document), sizes)


@pytest.mark.parametrize(
    "text",
    [
        rb"\ud83d\ude00",
        rb"\ud83d",
        rb"\ude00",
        rb"\ud83d\ud83d",
        rb"\\ud83d",
        rb"\\\ud83d\ude00",
        "😀".encode(),
        "é".encode(),
        "中".encode(),
        b"\xed\xa0\x80",
        b"\xff",
        b"\x80\x80\x80\x80",
        rb"\n",
        rb"\"",
        rb"\\",
        rb"\/",
        rb"\u0000",
        rb"\u12",
        rb"\x",
        b"\n",
        b"\x02",
    ],
)
def test_a_text_is_cut_only_between_characters(text):
    for count in range(1, 12):
        for before in range(16):
            document = b'["' + b"a" * before + text * count + b'", 1]'
            check(document, (5, 16))
            check(b'["' + b"a" * before + text * count + b", 1e9, 1e-300]", (5, 16))


@pytest.mark.parametrize(
    "number",
    [
        "1e300",
        "5e-324",
        "1.7976931348623157e308",
        "1E+25",
        "1e999",
        "-1e999",
        "1" * 400,
        "01e1",
        "1e",
    ],
)
@pytest.mark.parametrize(
    "beside", ["", r"\ud83d\ude00", r"\ud83d", r"\\ud83d", r"\ud83d\\\ude00", "\x01"]
)
def test_numbers_are_those_of_msgspec(number, beside):
    document = f'{{"a": ["{beside}", {number}, 1e5, {number}, NaN]}}'
    for whole in (document, document.replace(", NaN", "")):
        check(whole.encode(), (1000, 1000))
        check(whole.encode(), (1, 13))


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": "user", "content": LONG}], "n": 1},
        {"a": [LONG, {"b": LONG + '\\"\n😀'}, LONG], "b": [[[1, 2, {}]]] * 40_000},
        LONG + "é" * 70_000,
        [{"k": n, "t": f"\n{n}"} for n in range(30_000)],
        [1e300, -2.5e-310] * 30_000,
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_long_documents_are_equal(document, escaped):
    text = json.dumps(document, ensure_ascii=escaped).encode()
    assert json_pieces._Pieces(text).decoded() == document


@pytest.mark.parametrize(
    "end",
    [
        *(b"", b'"', b'"]', b'"}', b'"]]', b'"] 1', b'"\xff]', b'\\"]'),
        *(b'".5]', b'"e5]', b'"0]', b'"""]', b'" "a"]', b'": 1]'),
    ],
)
def test_the_end_is_checked(end):
    for text in (b"a" * 100, rb"\n" * 60):
        check(b'["' + text + end, (10, 20))
        check(b'{"a":"' + text + end.replace(b"]", b"}"), (10, 20))


def test_a_mistake_is_not_looked_for_in_all_that_follows():
    document = b"[" + b"[,]" * 100_000 + b"]"
    with pytest.raises(msgspec.DecodeError, match=r"\(byte 2\)"):
        json_pieces._Pieces(document).decoded()
    taken = []
    for text in (document, b"[" + b"[1]," * 75_000 + b"1]"):
        begun = time.thread_time()
        with suppress(msgspec.DecodeError):
            json_pieces._Pieces(text).decoded()
        taken.append(time.thread_time() - begun)
    assert taken[0] < 3 * taken[1]


def test_a_key_is_read_once_for_all_pieces_in_its_value(monkeypatch):
    key = b'{"' + b"k" * 60_000 + b'":'
    document = key * 20 + b"[" + b"1," * 600_000 + b"1]" + b"}" * 20
    decoded, decode = [], msgspec.json.decode
    monkeypatch.setattr(msgspec.json, "decode", lambda text: decoded.append(text) or decode(text))
    whole = decode_json(document)
    assert sum(map(len, decoded)) < 3 * len(document)
    assert whole == json.loads(document)


def test_the_place_of_a_mistake_is_told():
    document = b"[" + b"1234567, " * 120_000 + b"x]"
    with pytest.raises(msgspec.DecodeError, match=rf"\(byte {len(document) - 2}\)"):
        decode_json(document)
    document = b'["' + b"ab" * 600_000 + b'\n"]'
    with pytest.raises(msgspec.DecodeError, match=rf"\(byte {len(document) - 3}\)"):
        decode_json(document)


def test_a_long_key_is_refused():
    for before in (b"{", b'{"a": 1, '):
        document = before + b'"' + b"\\n" * 600_000 + b'" : 1}'
        with pytest.raises(msgspec.DecodeError, match=r"a key of more than 65536 bytes \(byte"):
            decode_json(document)


@pytest.mark.parametrize("nested", [b"[", b'{"a":'])
def test_what_is_nested_too_deeply_is_refused(nested):
    for document in (nested * 1_100_000, b"[1," * 400_000, b"[" * 200_000):
        with pytest.raises(RecursionError):
            decode_json(document)


@pytest.mark.parametrize(
    ("document", "costly"),
    [
        (b'{"a": "' + b"word, " * 80_000 + b'"}', False),
        (b"[" + b"1e300," * 500 + b"1]", False),
        (b"[" + b"1e300," * 600 + b"1]", True),
        (b"[" + b"1E-300," * 600 + b"1]", True),
        (b"[" + b"1," * 10_000 + b"1]", False),
        (b"[{}," * 20_000 + b"1]", False),
        (b"[" + b"1e300," * 90_000 + b"1]", True),
        (b"[" + (b"9" * 600 + b",") * 500 + b"1]", False),
        (b"[" + (b"9" * 600 + b",") * 600 + b"1]", True),
        (b'"' + b"a" * 1_000_000 + b'"', False),
        (b'"' + b"a" * 1_100_000 + b'"', True),
    ],
)
def test_what_takes_long_is_told_by_its_size_and_its_values(document, costly):
    assert is_costly(document) is costly


# What msgspec takes long for at once.
SLOW = {
    "escapes": b'{"a": "' + rb"\n" * 4_000_000 + b'"}',
    "numbers": b'{"a": [' + b"1.5e300," * 499_999 + b"1]}",
    "integers": b'{"a": [' + (b"9" * 4000 + b",") * 2000 + b"1]}",
    "texts": b'["' + b'","'.join([rb"\n" * 40] * 99_000) + b'"]',
}


@pytest.mark.parametrize("name", SLOW)
def test_no_call_of_a_decoder_takes_a_tenth_of_the_whole(monkeypatch, name):
    taken = []

    def timed(decode):
        def decoded(*given):
            begun = time.thread_time()
            try:
                return decode(*given)
            finally:
                taken.append(time.thread_time() - begun)

        return decoded

    monkeypatch.setattr(json_pieces, "_decode", timed(json_pieces._decode))
    gc.disable()  # the heap of the tests is large
    try:
        whole = json_pieces._Pieces(SLOW[name]).decoded()
    finally:
        gc.enable()
    assert max(taken) < sum(taken) / 10
    assert whole == json.loads(SLOW[name])


def test_no_number_takes_as_long_as_in_msgspec():
    document = b"[" + b"1e300," * 100_000 + b"1]"
    begun = time.thread_time()
    msgspec.json.decode(document)
    at_once = time.thread_time() - begun
    begun = time.thread_time()
    decode_json(document)
    assert time.thread_time() - begun < at_once / 2


def test_masks_stay_in_place():
    for size in range(2, 9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_pieces, "_SLICE_BYTES", size)
            for document in (rb'"a\\"', rb'"\\\"\\\\"', b"\\", rb"\\\n\"", rb"ab\\\\\"\\c"):
                masked = json_pieces._masked(document)
                assert len(masked) == len(document)
                pairs = re.sub(rb'\\[\\"]', b"\x01\x02", document)
                assert masked == pairs
