"""What replicas have of a prompt."""

from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from vgate.frontend.routing.prefix_index import PrefixIndex

few_keys = st.lists(st.integers(0, 11), max_size=8)
changes = st.lists(
    st.tuples(st.sampled_from(["store", "remove", "renew"]), st.integers(0, 2), few_keys),
    max_size=30,
)


@given(changes, st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True))
def test_it_counts_the_leading_blocks_of_each(steps, prompt):
    index = PrefixIndex()
    bits = [index.join() for _ in range(3)]
    has: list[set[int]] = [set(), set(), set()]
    for what, number, keys in steps:
        if what == "store":
            index.store(bits[number], keys)
            has[number] |= set(keys)
        elif what == "remove":
            index.remove(bits[number], keys)
            has[number] -= set(keys)
        else:
            index.leave(bits[number])
            bits[number] = index.join()
            has[number] = set()
    found = index.find(prompt)
    for number, bit in enumerate(bits):
        leading = next((n for n, key in enumerate(prompt) if key not in has[number]), len(prompt))
        assert found.blocks_of(bit) == leading
    assert found.most == max(found.blocks_of(bit) for bit in bits)


def test_what_was_sent_counts_until_it_is_settled():
    index = PrefixIndex()
    one, other = index.join(), index.join()
    index.store(one, [1])
    index.send(one, [2, 3])
    assert index.find([1, 2, 3, 4]).falls == [(one, 3)]
    index.store(one, [2])
    index.settle(one, [2, 3])
    assert index.find([1, 2, 3, 4]).falls == [(one, 2)]
    assert index.find([1, 2]).blocks_of(other) == 0


def test_a_lost_replica_has_nothing_and_its_bit_is_used_again():
    index = PrefixIndex()
    stays = index.join()
    index.store(stays, [0])
    for number in range(200):
        bit = index.join()
        index.store(bit, [0, number])
        index.send(bit, [0])
        index.leave(bit)
    assert bit < 1 << 20
    assert index.find([0]).falls == [(stays, 1)]
    # The keys of the lost ones don't pile up.
    assert len(index) < 40


def test_it_keeps_only_so_many_keys():
    index = PrefixIndex(most_keys=100)
    bit = index.join()
    for start in range(0, 1000, 10):
        index.store(bit, range(start, start + 10))
        assert len(index) <= 100
    assert len(index) > 90
    assert index.find([995, 996]).most == 2


def test_a_full_index_takes_keys_as_fast_as_an_empty_one():
    count = 1 << 16
    index = PrefixIndex(most_keys=count)
    bit, took = index.join(), []
    for turn in range(6):
        began = perf_counter()
        for start in range(turn * count, (turn + 1) * count, 1024):
            index.store(bit, range(start, start + 1024))
        took.append(perf_counter() - began)
    # It drops all that it takes from then on; it took 200 times longer with each key by itself.
    assert min(took[2:]) < 30 * took[0]


def test_a_place_where_many_prompts_go_on_is_shared():
    index = PrefixIndex()
    bit = index.join()
    index.store(bit, [1, 2])
    for number in range(3):
        # A conversation that grows is none of many.
        keys = [1, 2, *range(1000 + 10 * number, 1003 + 10 * number)]
        found = index.find(keys)
        assert found.shared == (2 if number == 2 else 0)
        for length in range(3, 6):
            index.store(bit, keys[:length])
            found = index.find([*keys[:length], -length])
            assert found.most == length
            assert found.shared == (2 if number == 2 else 0)
    found = index.find([1, 2, 7])
    assert (found.shared, found.uses) == (2, 4)


def test_without_replicas_there_is_nothing():
    index = PrefixIndex()
    found = index.find([1, 2])
    assert (found.falls, found.most, found.blocks_of(1)) == ([], 0, 0)
