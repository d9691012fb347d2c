"""Engines and frontends name the same prefix alike, in any process and Python version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.wire.codec import WireError, decode_to_frontend, encode, pack_token_ids
from vgate.wire.kv_blocks import (
    MOST_KEYS,
    KvBlocks,
    block_keys,
    block_seed,
    key_block_tokens,
    pack_keys,
    unpack_keys,
)

keys = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)


def test_keys_are_the_same_everywhere():
    # With other values an engine on another host would not be understood: raise the protocol.
    seed = block_seed("tuned", "tenant é")
    assert [block_seed("", ""), seed] == [-8753497827991233192, -5354022430488407497]
    assert block_keys(range(1000, 1256), 64, seed) == [
        4289121805893542648,
        -2377664272253015395,
        9034852627849842674,
        7523019949910801967,
    ]


@given(st.lists(st.integers(0, 2**18), max_size=300), st.integers(0, 299), st.integers(1, 2**18))
def test_a_key_names_all_tokens_up_to_its_block(prompt, place, change):
    whole = block_keys(prompt, 16, 7)
    assert len(whole) == len(prompt) // 16
    assert block_keys(pack_token_ids(prompt), 16, 7) == whole
    if place < len(prompt):
        changed = [*prompt]
        changed[place] += change
        other, same = block_keys(changed, 16, 7), place // 16
        assert other[:same] == whole[:same]
        assert not set(other[same:]) & set(whole[same:])


def test_keys_go_on_after_a_block():
    prompt = list(range(500))
    whole = block_keys(prompt, 64, 3)
    assert block_keys(prompt[128:], 64, whole[1]) == whole[2:]


def test_what_is_not_shared_has_other_keys():
    pairs = [("", ""), ("a", ""), ("", "a"), ("ab", "c"), ("a", "bc"), ("a", "b"), ("b", "a")]
    seeds = [block_seed(adapter, salt) for adapter, salt in pairs]
    assert len(set(seeds)) == len(pairs)
    assert len({block_keys(range(64), 64, seed)[0] for seed in seeds}) == len(pairs)


@pytest.mark.parametrize(("block", "expected"), [(1, 64), (16, 64), (24, 72), (64, 64), (128, 128)])
def test_a_key_s_block_is_whole_blocks_of_the_cache(block, expected):
    assert key_block_tokens(block) == expected


@given(keys, st.binary(max_size=7))
def test_keys_survive_packing(some, rest):
    assert unpack_keys(pack_keys(some) + rest) == some


def test_a_message_is_bounded():
    message = KvBlocks(1, 64, pack_keys(range(MOST_KEYS)), pack_keys([5]), reset=True)
    assert decode_to_frontend(encode(message)) == message
    with pytest.raises(WireError):
        decode_to_frontend(encode(KvBlocks(1, 64, pack_keys(range(MOST_KEYS + 1)))))
