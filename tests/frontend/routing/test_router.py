"""Choices between replicas, and the account of what was sent where."""

import itertools
from collections import Counter

import msgspec
import pytest

from vgate.config.schema import Routing
from vgate.frontend.routing import POLICIES, Replica, Router
from vgate.wire.codec import pack_token_ids
from vgate.wire.kv_blocks import KvBlocks, block_keys, block_seed, pack_keys
from vgate.wire.messages import Embed, Generate, Status
from vgate.wire.parameters import DEFAULTS, GenerateOptions
from vgate.wire.stats import Load

BLOCK = 64
numbers = itertools.count(1)


def prompt_of(*parts: int, length: int = 1024) -> list[int]:
    """Return as many tokens for each part, which parts with the same number share."""
    return [1000 * part + place % 1000 for part in parts for place in range(length)]


def generate(tokens: list[int], *, equal: bytes = b"", salt: str = "", most=100) -> Generate:
    sampling = msgspec.structs.replace(DEFAULTS, max_tokens=most)
    options = GenerateOptions(cache_salt=salt)
    return Generate(next(numbers), pack_token_ids(tokens), sampling, "", 1.0, 9, equal, options)


class Side:
    """A frontend's router and replicas."""

    def __init__(self, policy: str = "prefix_aware", count: int = 4, seed: int = 1) -> None:
        self.now = 0.0
        self.router = Router(Routing(policy=policy), lambda: self.now, seed)
        self.replicas = [Replica(str(number)) for number in range(count)]
        for replica in self.replicas:
            self.router.blocks(replica, KvBlocks(1, BLOCK, reset=True))

    def store(self, number: int, tokens: list[int], salt: str = "") -> None:
        replica = self.replicas[number]
        keys = block_keys(tokens, BLOCK, block_seed("", salt))
        assert self.router.blocks(replica, KvBlocks(replica.next_number, BLOCK, pack_keys(keys)))

    def hear(self, number: int, prefill=0, decode=0, running=0, rate=10_000.0) -> None:
        self.replicas[number].hear(Status(running, 0, 0.0, load=Load(prefill, decode, rate)))

    def choose(self, tokens: list[int], **options):
        return self.router.choose(self.replicas, generate(tokens, **options))

    def place(self, tokens: list[int], **options) -> int:
        """Return where a request would go that is over at once."""
        ticket = self.choose(tokens, **options)
        ticket.ended()
        return int(ticket.replica.name)


@pytest.mark.parametrize("policy", POLICIES)
def test_accounts_are_even_when_all_requests_have_ended(policy):
    side = Side(policy)
    tickets = [side.choose(prompt_of(n % 3, n), equal=b"%d" % (n % 7)) for n in range(40)]
    assert sum(replica.sequences for replica in side.replicas) == 40
    for number, ticket in enumerate(tickets):
        if number % 2:
            ticket.started()
            ticket.started()
        ticket.ended(number, failed=number == 3)
        ticket.ended()
        ticket.started()
    for replica in side.replicas:
        assert replica.sequences == replica.prefill_tokens == replica.decode_tokens == 0
    side.now = 1.0
    side.place(prompt_of(100))
    assert (side.router._equals, side.router.index._sent) == ({}, {})


@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_can_is_taken_without_a_choice(policy):
    side = Side(policy, count=1)
    ticket = side.choose(prompt_of(1))
    assert (ticket.replica, ticket.reason) == (side.replicas[0], "only")


def test_round_robin_takes_turns():
    side = Side("round_robin")
    assert Counter(side.place(prompt_of(1)) for _ in range(40)) == dict.fromkeys(range(4), 10)


def test_the_least_loaded_is_that_of_all_frontends():
    side = Side("least_loaded")
    for number, decode in enumerate([5500, 9000, 3000, 9000]):
        side.hear(number, decode=decode, running=20)
    assert side.place(prompt_of(1)) == 2
    for _ in range(3):
        side.choose(prompt_of(1))  # 1,124 tokens each
    assert side.place(prompt_of(1)) == 0
    # The next heartbeat includes what this frontend has sent.
    side.hear(2, prefill=3072, decode=300)
    assert side.place(prompt_of(1)) == 2


def test_frontends_don_t_all_take_the_same_of_equal_ones():
    for policy in ("prefix_aware", "least_loaded"):
        places = Counter(Side(policy, seed=seed).place(prompt_of(1)) for seed in range(80))
        assert min(places[number] for number in range(4)) >= 8


def test_a_conversation_stays_where_it_is():
    side = Side()
    side.store(2, prompt_of(1, 2, 3, 4))
    side.hear(2, decode=100_000, running=50)
    ticket = side.choose(prompt_of(1, 2, 3, 4, 5)[:-900])
    assert (int(ticket.replica.name), ticket.reason) == (2, "prefix")
    assert (ticket.tokens, ticket.cached) == (4220, 4096)


def test_it_leaves_a_replica_that_has_half_a_second_of_prefill_to_do():
    side = Side()
    side.store(2, prompt_of(1, 2, 3, 4))
    side.hear(2, prefill=5_000, rate=10_000)
    assert side.place(prompt_of(1, 2, 3, 4)) == 2
    side.hear(2, prefill=5_001, rate=10_000)
    assert side.place(prompt_of(1, 2, 3, 4)) != 2
    side.hear(2, prefill=5_001, rate=20_000)
    assert side.place(prompt_of(1, 2, 3, 4)) == 2
    # What this frontend has sent there counts at once.
    for _ in range(3):
        side.replicas[2].prefill_tokens += 2000
    assert side.place(prompt_of(1, 2, 3, 4)) != 2


def test_it_leaves_a_replica_without_a_free_place():
    side = Side()
    side.store(2, prompt_of(1, 2, 3, 4))
    for replica in side.replicas:
        replica.max_num_seqs = 8
    side.hear(2, running=8)
    assert side.place(prompt_of(1, 2, 3, 4)) != 2
    for number in range(4):
        side.hear(number, running=8 + (number != 2))
    assert side.place(prompt_of(1, 2, 3, 4)) == 2


def test_a_small_share_is_weighed_against_the_load():
    side = Side()
    side.store(1, prompt_of(1))
    assert side.place(prompt_of(1, 2)) == 1
    side.hear(1, decode=1024)
    assert side.place(prompt_of(1, 2)) == 1
    side.hear(1, decode=3000)
    assert side.place(prompt_of(1, 2)) != 1


def test_what_was_sent_is_as_good_as_cached():
    side = Side()
    places = {int(side.choose(prompt_of(7)).replica.name) for _ in range(3)}
    assert len(places) == 1


def test_it_stays_so_until_the_report_has_come():
    side = Side()
    ticket = side.choose(prompt_of(7))
    ticket.started()
    ticket.ended(1)
    assert side.choose(prompt_of(7)).cached == 1023
    side.now = 0.3
    side.choose(prompt_of(8))
    for tokens in (prompt_of(7), prompt_of(8)):
        # Of the second one, which waits, the replica has said nothing yet.
        assert (side.choose(tokens).cached == 0) == (tokens == prompt_of(7))


def test_what_ends_before_its_first_token_leaves_nothing():
    side = Side()
    side.choose(prompt_of(7)).ended()
    assert side.choose(prompt_of(7)).cached == 0


def test_prefixes_are_not_shared_between_salts():
    side = Side()
    side.store(1, prompt_of(1), salt="tenant")
    assert side.choose(prompt_of(1), salt="tenant").cached == 1023
    assert side.choose(prompt_of(1)).cached == 0
    assert side.choose(prompt_of(1), salt="other").cached == 0


def test_texts_to_embed_are_routed_too():
    side = Side()
    side.store(3, prompt_of(1))
    ticket = side.router.choose(side.replicas, Embed(1, pack_token_ids(prompt_of(1))))
    assert ticket.replica is side.replicas[3]
    assert side.replicas[3].decode_tokens == 0


def test_a_system_prompt_that_all_share_does_not_pull_all_to_one():
    side = Side()
    tickets = []
    for number in range(100, 200):
        ticket = side.choose(prompt_of(1, 2, 3, 4, number)[:4200])
        tickets.append(ticket)
        if number % 4 == 0:
            done = tickets.pop(0)
            done.started()
            done.ended(100)
            side.store(int(done.replica.name), prompt_of(1, 2, 3, 4))
    loads = [replica.outstanding for replica in side.replicas]
    assert max(loads) <= 1.3 * sum(loads) / 4
    # And each of the replicas has computed it once.
    assert sum(ticket.cached == 0 for ticket in tickets) <= 4


def test_equal_requests_meet_in_one_replica_while_one_of_them_runs():
    for policy in POLICIES:
        side = Side(policy)
        first = side.choose(prompt_of(1), equal=b"same")
        for number in range(20):
            side.choose(prompt_of(number))
        second = side.choose(prompt_of(1), equal=b"same")
        assert (second.replica, second.reason) == (first.replica, "equal")
        first.ended()
        third = side.choose(prompt_of(1), equal=b"same")
        assert (third.replica, third.reason) == (first.replica, "equal")
        second.ended()
        third.ended()
        assert side.choose(prompt_of(1), equal=b"same").reason != "equal"


def test_equal_requests_of_several_frontends_meet_as_well():
    """Their views differ by what the others have sent since the last heartbeat."""
    met = 0
    for number in range(50):
        sides = [Side(seed=seed) for seed in range(4)]
        for seed, side in enumerate(sides):
            side.replicas[seed].decode_tokens += 500
        equal = number.to_bytes(36, "little")
        met += len({side.place(prompt_of(1), equal=equal) for side in sides}) == 1
    assert met == 50


def test_an_equal_request_does_not_follow_one_to_a_replica_that_is_gone():
    side = Side()
    first = side.choose(prompt_of(1), equal=b"same")
    others = [replica for replica in side.replicas if replica is not first.replica]
    ticket = side.router.choose(others, generate(prompt_of(1), equal=b"same"))
    assert ticket.replica is not first.replica


@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_fails_gets_few_until_it_has_proved_itself(policy):
    side = Side(policy)
    bad = side.replicas[1]
    for _ in range(60):
        ticket = side.choose(prompt_of(next(numbers)))
        ticket.ended(failed=ticket.replica is bad)
    assert not bad.breaker.takes(10_000, 100.0)
    assert not any(side.choose(prompt_of(1)).replica is bad for _ in range(20))
    side.now = 100.0
    for _ in range(40):
        tickets = [side.choose(prompt_of(next(numbers))) for _ in range(8)]
        for ticket in tickets:
            ticket.started()
            ticket.ended(10)
    assert bad.breaker.takes(10_000, 100.0)


def test_where_all_fail_all_are_used():
    side = Side("least_loaded")
    for _ in range(50):
        side.choose(prompt_of(1)).ended(failed=True)
    places = Counter(side.place(prompt_of(1)) for _ in range(80))
    assert len(places) == 4


def test_a_gap_in_a_report_is_noticed_once_and_healed_by_a_new_one():
    side = Side()
    side.store(1, prompt_of(1))
    replica = side.replicas[1]
    assert not side.router.blocks(replica, KvBlocks(9, BLOCK))
    assert side.choose(prompt_of(1)).cached == 0
    # What comes until the new report is part of the old one.
    assert side.router.blocks(replica, KvBlocks(10, BLOCK))
    assert side.router.blocks(replica, KvBlocks(1, BLOCK, reset=True))
    side.store(1, prompt_of(2))
    assert side.choose(prompt_of(2)).cached == 1023


def test_an_engine_that_can_t_tell_has_nothing():
    side = Side(count=2)
    for replica in side.replicas:
        assert side.router.blocks(replica, KvBlocks(1, 0, reset=True))
    assert side.choose(prompt_of(1)).cached == 0
    side.router.forget(side.replicas[0])


def test_the_expected_output_follows_what_requests_generate():
    side = Side()
    side.choose(prompt_of(1), most=None)
    assert sum(replica.decode_tokens for replica in side.replicas) == 256
    for _ in range(200):
        side.choose(prompt_of(1), most=None).ended(20)
    before = sum(replica.decode_tokens for replica in side.replicas)
    side.choose(prompt_of(1), most=None)
    assert sum(replica.decode_tokens for replica in side.replicas) - before in range(18, 30)


def test_fast_prefill_makes_no_replica_equal_to_a_busy_one():
    side = Side()
    for number in range(4):
        side.hear(number, decode=5000 * (number != 1), rate=1e9)
    assert {side.place(prompt_of(1, length=60), equal=b"%d" % n) for n in range(1, 30)} == {1}


def test_a_request_without_a_natural_end_generates_all_that_it_may():
    side = Side()
    message = generate(prompt_of(1), most=5000)
    endless = msgspec.structs.replace(message.sampling, ignore_eos=True)
    ticket = side.router.choose(side.replicas, msgspec.structs.replace(message, sampling=endless))
    assert ticket.replica.decode_tokens == 5000


def test_of_many_replicas_the_ones_with_the_prefix_are_among_those_compared():
    side = Side(count=300)
    side.store(217, prompt_of(1))
    for number in range(300):
        side.hear(number, decode=0 if number == 217 else 800)
    assert side.place(prompt_of(1, 2)) == 217
    # Equal requests are compared between the same ones everywhere.
    places = {
        Side("least_loaded", count=300, seed=seed).place(prompt_of(3), equal=b"equal")
        for seed in range(5)
    }
    assert len(places) == 1
    assert len({side.place(prompt_of(n), equal=b"%d" % n) for n in range(3, 60)}) > 30


def test_round_robin_takes_turns_between_many():
    side = Side("round_robin", count=100)
    assert Counter(side.place(prompt_of(1)) for _ in range(200)) == dict.fromkeys(range(100), 2)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replica_that_hangs_gets_nothing_new(policy):
    side = Side(policy, count=3)
    tokens = prompt_of(1, 2)
    side.store(1, tokens)
    first = side.choose(tokens, equal=b"same")
    for _ in range(8):
        side.now += 0.5
        for number in range(3):
            if number != 1:
                side.hear(number)
        if side.now == 0.5:
            side.hear(1)
        side.place(tokens)
    places = {side.place(tokens, equal=b"same") for _ in range(20)}
    assert 1 not in places
    first.ended()
    side.hear(1)
    assert 1 in {side.place(tokens), *(side.place(prompt_of(n)) for n in range(3, 30))}


def test_if_all_hang_all_are_used():
    side = Side("round_robin", count=2)
    for number in range(2):
        side.hear(number)
    side.place(prompt_of(1))
    side.now += 60
    assert {side.place(prompt_of(n)) for n in range(4)} == {0, 1}
