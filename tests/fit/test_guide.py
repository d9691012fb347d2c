"""docs/small-gpus.md says what `vgate fit` computes."""

import pytest

from tests.fit import guide
from vgate.fit.gpu import GIB, USUAL_SHARE

# Sizes of the files on the Hub, in GB as it shows them: the weights that are loaded are the same.
ON_THE_HUB = {
    "Qwen/Qwen3-4B-AWQ": 2.67,
    "Qwen/Qwen2.5-7B-Instruct-AWQ": 5.57,
    "Qwen/Qwen3-8B-AWQ": 6.1,
    "Qwen/Qwen3-8B": 16.4,
    "Qwen/Qwen3-14B-AWQ": 9.96,
}


def test_the_page_has_the_current_tables():
    page = guide.PAGE.read_text(encoding="utf-8")
    assert guide.rendered(page) == page, "run: python -m tests.fit.guide"
    assert f"with {USUAL_SHARE:.0%} of the card for vLLM" in page


@pytest.mark.parametrize("gib", guide.CARDS_GIB)
def test_each_card_has_models_and_a_first_choice(gib):
    text = "".join(guide.table(gib))
    assert text.count("\n| ") > 3
    assert text.count("| **") == 1


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_models_are_described_as_they_are(name):
    model = next(one for one in guide.MODELS if one.name == name)
    tensors = guide.files_of(model).tensors.values()
    size = sum(tensor.size_bytes for tensor in tensors)
    assert size / 1e9 == pytest.approx(ON_THE_HUB[name], rel=0.01)


def test_a_larger_card_and_a_smaller_cache_hold_more():
    model = next(one for one in guide.MODELS if one.name == "Qwen/Qwen3-8B-AWQ")
    lengths = [guide.longest(model, gib, 4) for gib in (8, 12, 16)]
    assert lengths == sorted(set(lengths))
    small = guide.longest(model, 12, 4, kv_cache_dtype="fp8")
    assert small == pytest.approx(2 * lengths[1], rel=0.01)
    offloaded = guide.on_card(model, 8, 4, offload=2 * GIB)
    assert offloaded.kv_memory - guide.on_card(model, 8, 4).kv_memory == 2 * GIB
    few, every = (guide.on_card(model, 8, 256, few_graphs=few).overhead for few in (True, False))
    assert every.graphs > 2.5 * few.graphs
    assert guide.on_card(model, 8, 256).overhead == few
    assert guide.on_card(model, 24, 256).overhead == every
