"""What `auto` stands for: a context, a batch and a KV cache, by figures."""

import msgspec
import pytest

from tests.fit.checkpoints import write_checkpoint
from tests.fit.published import MODELS
from vgate.config.model import Model
from vgate.config.schema import Batch, Config
from vgate.fit import FitError, Settings, estimate, read_checkpoint
from vgate.fit.gpu import GIB, MIB, Card
from vgate.sizing.choice import for_gpu, for_host, is_bounded, longest_context, settings_of
from vgate.sizing.room import gpu_room, host_room

AWQ, LLAMA, GEMMA = "Qwen2.5-7B-AWQ", "Llama-3.1-8B", "Gemma-3-1b"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")

    def fetch(name):
        raise FitError(name)

    return {
        name: read_checkpoint(
            str(write_checkpoint(directory / name, MODELS[name], empty=True)), None, fetch
        )
        for name in (AWQ, LLAMA, GEMMA)
    }


@pytest.mark.parametrize(
    ("one", "two", "most", "expected"),
    [
        (70_000, 35_000, 32_768, 32_768),  # the model's own, for two answers
        (40_000, 20_000, 32_768, 19_456),  # two answers, rather than one of twice the length
        (12_000, 6_000, 32_768, 8_192),  # what agents need, rather than two answers
        (6_000, 3_000, 32_768, 5_888),
        (700, 350, 32_768, 512),
        (300, 150, 32_768, 288),
        (300, 150, 256, 256),
        (0, 0, 32_768, 0),
    ],
)
def test_the_context_is_the_longest_that_is_of_use(one, two, most, expected):
    assert longest_context({1: one, 2: two}.__getitem__, most) == expected


def plan(checkpoint, total, free=None, *, bounded=False, **settings):
    found = gpu_room(int(total * GIB), int((free or total * 0.98) * GIB), desktop=False, wsl=False)
    card = Card(total=found.total, utilization=found.share)
    room = msgspec.structs.replace(found, usable=card.usable)
    return for_gpu(checkpoint, card, room, Settings(**settings), bounded=bounded)


def test_a_larger_card_gets_more_context_and_more_answers(checkpoints):
    small, middle, large = (plan(checkpoints[AWQ], total) for total in (8, 12, 24))
    assert (small.likely, middle.likely, large.likely) == (14_336, 32_768, 32_768)
    assert small.sequences < middle.sequences < large.sequences == 256
    # Before vLLM has measured, a little more is allowed than is likely.
    assert small.likely < small.context < small.likely * 1.3
    assert middle.fits >= 2
    assert large.fits > middle.fits


def test_what_others_use_is_not_there(checkpoints):
    alone, shared = plan(checkpoints[GEMMA], 8), plan(checkpoints[GEMMA], 8, free=3.5)
    assert shared.sequences < alone.sequences
    assert shared.fits < alone.fits


def test_what_is_given_stays(checkpoints):
    found = plan(checkpoints[AWQ], 12, context=4096, sequences=7)
    assert (found.context, found.likely, found.sequences) == (4096, 4096, 7)
    # What doesn't fit is foreseen, and vLLM has the last word.
    found = plan(checkpoints[AWQ], 8, context=32_768, sequences=4)
    assert found.context == 32_768 > found.likely > 8192


def test_a_bounded_model_gets_its_cache_by_the_figures(checkpoints):
    measured, bounded = (plan(checkpoints[AWQ], 12, bounded=on) for on in (False, True))
    assert measured.kv_bytes is None
    room = gpu_room(12 * GIB, int(12 * 0.98 * GIB), desktop=False, wsl=False)
    card = Card(total=12 * GIB, utilization=room.share)
    found = estimate(checkpoints[AWQ], card, Settings(sequences=bounded.sequences))
    assert bounded.kv_bytes == found.kv_memory - 150 * MIB
    # What is likely is what fits into it.
    assert found.cache.concurrency(bounded.kv_bytes, bounded.likely) >= 1
    # Where nothing of use is left, vLLM says what is lacking.
    assert plan(checkpoints[AWQ], 6.1, bounded=True).kv_bytes is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"memory_bytes": 4 * GIB}, True),
        ({"gpu_memory_utilization": 0.5}, False),
        ({"gpu_memory_utilization": 0.5, "load": "on_demand"}, True),
        ({"memory_bytes": 4 * GIB, "engine_args": {"kv_cache_memory_bytes": 5}}, False),
        ({"memory_bytes": 4 * GIB, "engine_args": {"cpu_offload_gb": 1}}, False),
        ({"memory_bytes": 4 * GIB, "lora_adapters": {"a": "/a"}}, False),
    ],
)
def test_which_models_are_bounded(settings, expected):
    model = Model(model_id="m", **settings)
    assert is_bounded(model, Config(model=model)) is expected


def test_weights_that_do_not_fit_are_told_in_numbers(checkpoints):
    problem = plan(checkpoints[LLAMA], 12).problem
    for words in ("weights of", "take 15.0 GiB", "may have 11.0 GiB", "quantised"):
        assert words in problem


def test_the_cpu_s_cache_is_a_part_of_the_free_memory(checkpoints):
    found = for_host(checkpoints[GEMMA], host_room(16 * GIB), Settings())
    assert (found.context, found.kv_bytes) == (32_768, 4 * GIB)
    assert found.fits >= 2
    halved = for_host(checkpoints[GEMMA], host_room(16 * GIB, halvings=1), Settings())
    assert halved.kv_bytes == found.kv_bytes // 2
    # A step is as long as the context, and both have to fit.
    little = for_host(checkpoints[GEMMA], host_room(8 * GIB, bound=3 * GIB), Settings())
    assert little.context < found.context
    taken = checkpoints[GEMMA]
    assert taken is not None
    assert little.kv_bytes < GIB


def test_a_given_context_or_cache_on_the_cpu_stays(checkpoints):
    found = for_host(checkpoints[GEMMA], host_room(16 * GIB), Settings(context=4096, sequences=3))
    assert (found.context, found.sequences) == (4096, 3)
    own = for_host(checkpoints[GEMMA], host_room(16 * GIB), Settings(), own=2048)
    assert own.context == 2048
    given = for_host(checkpoints[GEMMA], host_room(16 * GIB), Settings(), kv_bytes=64 * MIB)
    assert given.kv_bytes == 64 * MIB
    assert given.context < 32_768


def test_a_model_that_the_memory_does_not_hold_is_told_in_numbers(checkpoints):
    problem = for_host(checkpoints[GEMMA], host_room(8 * GIB, bound=GIB), Settings()).problem
    assert "take" in problem
    assert "1.0 GiB of memory is what it may take" in problem
    problem = for_host(
        checkpoints[GEMMA], host_room(8 * GIB, bound=int(2.2 * GIB)), Settings(context=32_768)
    ).problem
    assert "no KV cache is left" in problem
    assert "32,768 tokens" in problem


def test_settings_that_figures_depend_on():
    model = Model(max_model_len=99, dtype="float16", engine_args={"max_num_batched_tokens": 7})
    found = settings_of(model, Batch(max_num_seqs=5))
    assert (found.context, found.sequences, found.step_tokens) == (99, 5, 7)
    assert (found.dtype, found.eager) == ("float16", False)
    found = settings_of(Model(), Batch(), eager=True)
    assert (found.context, found.sequences, found.step_tokens) == (None, None, None)
    assert found.eager


@pytest.mark.parametrize(
    ("settings", "few", "eager"),
    [
        ({}, None, False),
        ({"cuda_graphs": "few"}, True, False),
        ({"cuda_graphs": "all"}, False, False),
        ({"cuda_graphs": "none"}, None, True),
        ({"cuda_graphs": "few", "speculation": "ngram"}, False, False),
    ],
)
def test_graphs_are_counted_as_they_are_made(settings, few, eager):
    found = settings_of(Model(**settings), Batch())
    assert (found.few_graphs, found.eager) == (few, eager)


def test_settings_of_the_card_count():
    found = settings_of(Model(kv_cache_dtype="fp8", weights_offload_gib=1.5), Batch())
    assert (found.kv_cache_dtype, found.offload) == ("fp8", 3 * GIB // 2)


def test_weights_in_main_memory_need_no_room_on_the_card(checkpoints):
    assert plan(checkpoints[LLAMA], 12, offload=6 * GIB).problem == ""
