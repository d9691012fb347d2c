import json

import msgspec
import pytest

from vgate.frontend.http import emptied, encode_emptied, encode_text, json_pieces

VALUES = [0, -1, None, 'a"\\\n', [1, [2]], {"a": "é"}, 1.5, True]


@pytest.fixture
def encoded(monkeypatch):
    """Let slices be short; return how long what is encoded at once is."""
    lengths, encode = [], msgspec.json.encode

    def recorded(value):
        lengths.append(len(value))
        return encode(value)

    monkeypatch.setattr(json_pieces, "_MANY", 3)
    monkeypatch.setattr(json_pieces.msgspec.json, "encode", recorded)
    return lengths


@pytest.mark.parametrize("count", range(len(VALUES) + 1))
def test_a_list(encoded, count):
    values = VALUES[:count]
    assert json.loads(encode_emptied(values)) == VALUES[:count]
    assert values == []
    assert max(encoded, default=0) <= 3


@pytest.mark.parametrize("text", ["", "a", '"\\\n', "é😀\ufffd\0" * 9, "a" * 10])
def test_a_text(encoded, text):
    assert json.loads(encode_text(text)) == text
    assert max(encoded, default=0) <= 3


def test_a_list_is_freed_in_slices(encoded):
    values = list(range(10))
    left = [(some, len(values)) for some in emptied(values)]
    # A slice is in the list until the next one is asked for.
    assert left == [([7, 8, 9], 10), ([4, 5, 6], 7), ([1, 2, 3], 4), ([0], 1)]
    assert values == []
