"""`vgate fit` against what people have published of vLLM's starts."""

import msgspec
import pytest

from tests.fit.checkpoints import capacity_tokens, checkpoint
from tests.fit.published import CASES, MODELS, Case
from vgate.fit import Settings, estimate, gpu
from vgate.fit.gpu import GIB, Card

# Figures of GiB are rounded to two digits.
ROUNDED = 0.005 * GIB
BLOCK_TOKENS = 16
# What the model of a GPU may be off: it has no GPU.
CARD_TOLERANCE_GIB, CARD_TOLERANCE = 0.35, 0.02


@pytest.fixture(autouse=True)
def of_its_version(request, monkeypatch):
    """Have the sampler of the version that a case was reported of."""
    if (
        case := request.node.callspec.params.get("case")
        if hasattr(request.node, "callspec")
        else None
    ):
        monkeypatch.setattr(gpu, "_SAMPLER_BYTES", case.sampler_bytes)


def made(case: Case):
    config = MODELS[case.model]
    if case.without_windows:
        config = {**config, "layer_types": ["full_attention"] * config["num_hidden_layers"]}
    settings = Settings(
        context=case.context,
        sequences=case.sequences,
        step_tokens=case.step_tokens,
        kv_cache_dtype=case.kv_dtype,
        eager=case.step_tokens is not None,
    )
    total = int((case.total or 80) * GIB)
    return estimate(checkpoint(config), Card(total, case.utilization), settings)


def ids(cases):
    return [
        pytest.param(case, id=f"{case.model} {case.source.rpartition('/')[2]}") for case in cases
    ]


def test_there_are_enough_cases_with_a_source():
    assert len(CASES) >= 25
    assert len({case.source for case in CASES}) == len(CASES)
    assert all(case.source.startswith("https://") for case in CASES)


@pytest.mark.parametrize("case", ids(case for case in CASES if case.weights))
def test_weights(case):
    found = made(case).weights
    total = found.total - (found.copies if case.differs else 0)
    assert total / GIB == pytest.approx(case.weights, rel=0.012)


@pytest.mark.parametrize("case", ids(case for case in CASES if case.kv_memory and case.tokens))
def test_size_of_the_kv_cache(case):
    """The size lies between those of the rounded memory's ends."""
    cache = made(case).cache
    least, most = (
        capacity_tokens(cache, int(case.kv_memory * GIB + error), case.context)
        for error in (-ROUNDED, ROUNDED)
    )
    assert least <= case.tokens <= most
    assert most - least < 0.01 * case.tokens


@pytest.mark.parametrize("case", ids(case for case in CASES if case.kv_memory and case.blocks))
def test_blocks(case):
    cache = made(case).cache
    ends = [
        int((case.kv_memory * GIB + error) // cache.block_bytes) for error in (-ROUNDED, ROUNDED)
    ]
    assert ends[0] <= case.blocks <= ends[1]


@pytest.mark.parametrize("case", ids(case for case in CASES if case.concurrency))
def test_maximum_concurrency(case):
    cache = made(case).cache
    blocks = case.blocks or (not case.kv_memory and case.tokens // BLOCK_TOKENS)
    memory = blocks * cache.block_bytes if blocks else int(case.kv_memory * GIB)
    found = cache.concurrency(memory, case.context)
    assert found == pytest.approx(case.concurrency, abs=max(0.0051, 0.003 * found))


@pytest.mark.parametrize("case", ids(case for case in CASES if case.block_tokens))
def test_tokens_in_a_block(case):
    assert {group.block_tokens for group in made(case).cache.groups} == {case.block_tokens}


@pytest.mark.parametrize("case", ids(case for case in CASES if case.needed))
def test_memory_that_a_context_needs(case):
    needed = made(case).cache.sequence_bytes(case.context)
    assert needed / GIB == pytest.approx(case.needed, abs=0.006)


@pytest.mark.parametrize("case", ids(case for case in CASES if case.longest and case.kv_memory))
def test_longest_context(case):
    cache = made(case).cache
    least, most = (
        cache.longest(int(case.kv_memory * GIB + error), 1 << 20) for error in (-ROUNDED, ROUNDED)
    )
    assert least <= case.longest <= most


@pytest.mark.parametrize("case", ids(case for case in CASES if case.context and case.kv_memory))
def test_whether_it_fits_the_reported_memory(case):
    fits = made(case).cache.concurrency(int(case.kv_memory * GIB), case.context) >= 1
    assert fits is case.fits


ON_A_CARD = [case for case in CASES if case.total]


def remaining(case: Case) -> int:
    """Return what remains for the KV cache of a card, from the card and the model alone."""
    found = made(case)
    if case.loaded is None:
        return found.kv_memory
    return int(found.card.usable - case.loaded * GIB - found.overhead.total)


@pytest.mark.parametrize("case", ids(ON_A_CARD))
def test_whether_it_fits_the_card(case):
    assert (made(case).cache.concurrency(remaining(case), case.context) >= 1) is case.fits


@pytest.mark.parametrize("case", ids(case for case in ON_A_CARD if case.kv_memory or case.blocks))
def test_memory_that_remains_for_the_kv_cache(case):
    reported = case.kv_memory or case.blocks * made(case).cache.block_bytes / GIB
    off = max(CARD_TOLERANCE_GIB, CARD_TOLERANCE * abs(reported))
    assert remaining(case) / GIB == pytest.approx(reported, abs=off)


def test_a_case_is_not_right_by_chance():
    """A mistake of one layer in the KV cache is seen by the cases above."""
    case = next(case for case in CASES if case.model == "Qwen3-30B-A3B")
    config = {**MODELS[case.model], "num_hidden_layers": 47}
    found = estimate(
        checkpoint(config), Card(80 * GIB, 0.9), Settings(kv_cache_dtype=case.kv_dtype)
    )
    wrong = capacity_tokens(found.cache, int(case.kv_memory * GIB), case.context)
    assert wrong > case.tokens * 1.01
    assert msgspec.to_builtins(case)["model"] == "Qwen3-30B-A3B"
