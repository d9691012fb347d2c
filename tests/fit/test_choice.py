"""Which version of a model is chosen for which card."""

import msgspec
import pytest

from vgate.config.model import Model
from vgate.config.models.catalogue import catalogue
from vgate.fit.choice import ANSWERS, CONTEXT, choose, how_it_fits, proposed
from vgate.fit.gpu import GIB, Card
from vgate.fit.short_names import (
    card_here,
    look_up,
    problem,
    repository,
    resolved,
    why,
    why_not,
)

MODELS = catalogue().models


def card(gib, **more):
    return Card(int(gib * GIB * 0.98), 0.9, **more)


@pytest.mark.parametrize(
    ("name", "gib", "chosen"),
    [
        ("qwen3:8b", 8, "Qwen/Qwen3-8B-AWQ"),
        ("qwen3:8b", 12, "Qwen/Qwen3-8B-AWQ"),
        ("qwen3:8b", 16, "Qwen/Qwen3-8B-FP8"),
        ("qwen3:8b", 24, "Qwen/Qwen3-8B"),
        ("qwen3:14b", 24, "Qwen/Qwen3-14B-FP8"),
        ("qwen3:32b", 16, None),
        ("gemma3:4b", 6, "RedHatAI/gemma-3-4b-it-quantized.w4a16"),
        ("bge-m3:567m", 4, "BAAI/bge-m3"),
        ("qwen3-embedding:8b", 12, None),
    ],
)
def test_the_most_bits_that_leave_room(name, gib, chosen):
    best = choose(MODELS[name], card(gib)).best
    assert (best.variant.repository if best else None) == chosen


def test_every_model_has_a_version_for_a_huge_card_and_none_for_a_tiny_one():
    for name, found in MODELS.items():
        choice = choose(found, card(180))
        assert choice.best is not None, name
        assert choice.best.variant == found.variants[0], name
        assert choice.best.answers == ANSWERS
        assert choice.best.context >= min(CONTEXT, found.config["max_position_embeddings"]), name
        if found.variants[-1].bytes > GIB:
            assert choose(found, card(1)).best is None, name


def test_more_memory_never_gives_fewer_bits():
    for name, found in MODELS.items():
        forms = []
        for gib in (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80):
            best = choose(found, card(gib)).best
            roomy = best and best.answers == ANSWERS and best.context >= CONTEXT
            forms += [best.variant.form] if best and roomy else []
        order = ["int4", "fp8", "bf16"]
        places = [order.index(form) for form in forms]
        assert places == sorted(places), name


def test_a_version_that_is_downloaded_is_kept_where_it_has_room():
    found, awq = MODELS["qwen3:8b"], "Qwen/Qwen3-8B-AWQ"
    assert choose(found, card(24)).best.variant.repository != awq
    assert choose(found, card(24), cached=[awq]).best.variant.repository == awq
    # One that has too little room is not.
    assert choose(found, card(12), cached=["Qwen/Qwen3-8B-FP8"]).best.variant.repository == awq


def test_old_cards_and_processors_compute_no_fp8():
    turing = card(16, fp8=False, bfloat16=False)
    assert choose(MODELS["qwen3:8b"], turing).best.variant.form == "int4"
    assert choose(MODELS["gpt-oss:20b"], card(24)).best is not None
    assert choose(MODELS["gpt-oss:20b"], card(24, bfloat16=False)).best is None


def test_a_form_that_is_asked_for():
    choice = choose(MODELS["qwen3:8b"], card(8), "bf16")
    assert choice.best is None
    assert [one.variant.form for one in choice.all] == ["bf16"]
    assert choice.all[0].missing > 8 * GIB


def test_what_is_proposed_grows_with_the_card():
    names = [(proposed(card(gib)) or ("-",))[0] for gib in (2, 4, 6, 8, 12, 16, 24, 80)]
    assert names[0] == "-"
    assert names[4] == "qwen3:8b"
    ranks = [MODELS[name].rank if name in MODELS else 0 for name in names]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 4


def test_gpt_oss_is_proposed_where_it_fits_as_vllm_loads_it():
    (variant,) = MODELS["gpt-oss:20b"].variants
    assert variant.loaded_bytes == int(13.72 * GIB)
    whole = Card(16_380 * 2**20, 0.92)
    name, fit = proposed(whole)
    # docs/models.md says so.
    assert (name, fit.answers, fit.context) == ("gpt-oss:20b", ANSWERS, 9_104)
    lighter = msgspec.structs.replace(variant, loaded_bytes=0)
    lighter_fit = how_it_fits(MODELS["gpt-oss:20b"], lighter, whole)
    assert lighter_fit.context > fit.context
    # A desktop takes some of the card.
    assert proposed(card(15.5))[0] == "qwen3:14b"
    assert proposed(card(24))[0] == "gpt-oss:20b"


def test_a_choice_is_explained():
    small = card(12, name="RTX 3060")
    lines = why(look_up("qwen3:8b", small)[1])
    assert lines[0].startswith("Qwen/Qwen3-8B-AWQ (AWQ, 4 bit, 6.1 GB): 2 answers of 1")
    assert lines[0].endswith("fit at once")
    assert lines[1].startswith("Qwen/Qwen3-8B (16 bit, 16.4 GB): does not fit by ")
    assert lines[2].startswith("Qwen/Qwen3-8B-FP8 (FP8, 9.4 GB): 2 answers of ")
    told = str(why_not("qwen3:32b", look_up("qwen3:32b", small)[1], small))
    assert "qwen3:32b does not fit on RTX 3060 (11.8 GiB): its smallest version, Qwen/" in told


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A machine with an empty cache and no token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def gpu(monkeypatch):
    def set_to(*found):
        monkeypatch.setattr("vgate.fit.short_names.cards", lambda _share: list(found))

    return set_to


def test_gated_versions_come_last_without_a_token(alone, monkeypatch):
    big = card(24)
    assert repository("llama3.1:8b", big) == "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic"
    assert repository("embeddinggemma:300m", big) == "google/embeddinggemma-300m"
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert repository("llama3.1:8b", big) == "meta-llama/Llama-3.1-8B-Instruct"


def test_a_model_is_served_under_its_short_name(alone, gpu):
    gpu(card(12))
    found = resolved(Model(model_id="qwen3:8b", max_model_len=4096))
    assert found.model_id == "Qwen/Qwen3-8B-AWQ"
    assert found.served_names == ["qwen3:8b"]
    assert found.max_model_len == 4096
    named = resolved(Model(model_id="bge-m3:567m", served_model_name="mine"))
    assert (named.model_id, named.name, named.task) == ("BAAI/bge-m3", "mine", "embed")
    plain = Model(model_id="Qwen/Qwen3-8B")
    assert resolved(plain) is plain


def test_a_model_that_does_not_fit_is_a_problem(alone, gpu):
    gpu(card(8))
    assert problem(Model(model_id="qwen3:4b")) is None
    assert problem(Model(model_id="Qwen/Qwen3-32B")) is None
    told = problem(Model(model_id="qwen3:32b"))
    assert told.startswith("model.model_id: qwen3:32b does not fit on a GPU (7.8 GiB): its")
    assert resolved(Model(model_id="qwen3:32b")).model_id == "Qwen/Qwen3-32B-AWQ"


def test_what_a_model_is_configured_to_have_counts(alone, gpu):
    gpu(card(12))
    gib = 1 << 30
    for settings, chosen in (
        ({}, "Qwen/Qwen3-8B-AWQ"),
        ({"tensor_parallel_size": 2}, "Qwen/Qwen3-8B"),
        ({"weights_offload_gib": 4.0}, "Qwen/Qwen3-8B-FP8"),
        ({"memory_bytes": 16 * gib}, "Qwen/Qwen3-8B-FP8"),
    ):
        assert resolved(Model(model_id="qwen3:8b", **settings)).model_id == chosen, settings
    assert problem(Model(model_id="qwen3:32b"))
    assert problem(Model(model_id="qwen3:32b", tensor_parallel_size=2)) is None
    # What these save isn't known.
    assert problem(Model(model_id="qwen3:32b", engine_args={"cpu_offload_gb": 20})) is None
    gpu()
    assert problem(Model(model_id="qwen3:32b", memory_bytes=gib)) is None


def test_without_a_gpu_half_of_the_memory_counts(alone, gpu):
    gpu()
    found = card_here()
    assert "CPU" in found.name
    assert not found.fp8
    assert repository("qwen3:0.6b", found) == "Qwen/Qwen3-0.6B"


def test_room_is_what_fit_says():
    found = MODELS["qwen3:8b"]
    fit = how_it_fits(found, found.variants[-1], card(12))
    # 144 KiB a token: 36 layers, 8 heads of 128 for keys and for values, two bytes.
    kv = 2 * fit.context * 36 * 8 * 128 * 2 * 2
    free = card(12).usable - found.variants[-1].bytes
    assert free - GIB < kv < free
