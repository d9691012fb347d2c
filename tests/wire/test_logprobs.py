"""Log probabilities are packed without losing a digit of what a model computes."""

import struct
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.wire.codec import decode_to_frontend, encode
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import Delta, Step

places = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.floats(max_value=0, width=32)), min_size=1, max_size=30
)


@given(places, st.integers(1, 10_000), st.integers(1, 40))
def test_packs_and_unpacks(place, rank, most):
    ids, logprobs = zip(*place, strict=True)
    packed = Logprobs.of(ids, logprobs, rank)
    assert packed.unpack() == (ids, logprobs)
    assert packed.unpack(most) == (ids[:most], logprobs[:most])
    assert packed.token_id == ids[0]
    assert packed.rank == rank


@given(places)
def test_arrives_as_it_was_sent(place):
    ids, logprobs = zip(*place, strict=True)
    step = Step(deltas=[Delta(1, [ids[0]], logprobs=[Logprobs.of(ids, logprobs, 1)])])
    assert decode_to_frontend(encode(step)) == step


def test_is_little_endian_and_of_four_bytes_each():
    packed = Logprobs.of([1, 258], [-0.5, -inf], 1)
    assert packed.token_ids == b"\1\0\0\0\2\1\0\0"
    assert packed.logprobs == struct.pack("<ff", -0.5, -inf)


def test_has_few_objects_however_many_tokens_it_has():
    fields = msgspec.structs.astuple(Logprobs.of(range(21), [-1.0] * 21, 1))
    assert [type(field) for field in fields] == [bytes, bytes, int]


@pytest.mark.parametrize("token", [-1, 2**32])
def test_an_id_that_is_none_is_refused(token):
    with pytest.raises(struct.error):
        Logprobs.of([token], [-1.0], 1)
