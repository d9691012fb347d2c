"""The table of short names: it is whole, and its figures are those of its configurations."""

import re

import pytest

from tests.fit.checkpoints import checkpoint
from vgate.config.models.catalogue import FORMS, catalogue, entry, similar
from vgate.config.models.names import check_name
from vgate.config.models.settings import CheckpointError

MODELS = catalogue().models
# Kinds whose files `tests.fit.checkpoints` can make.
DENSE = [name for name, one in MODELS.items() if one.config["model_type"] in {"llama", "qwen2"}]
DENSE += [name for name, one in MODELS.items() if one.config["model_type"] in {"qwen3", "mistral"}]
# As `quantization_config`; Qwen's FP8 has a scale for each block, Red Hat's one for each row.
FORMATS = {
    "16 bit": None,
    "FP8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "AWQ, 4 bit": {"quant_method": "awq"},
    "GPTQ, 4 bit": {"quant_method": "gptq"},
    "INT4": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
    },
}


def test_it_has_a_date_and_sources():
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", catalogue().date)
    sources = catalogue().sources
    assert all(one.source in sources for found in MODELS.values() for one in found.variants)


def test_names_and_versions_are_whole():
    repositories = [one.repository for found in MODELS.values() for one in found.variants]
    assert len(set(repositories)) == len(repositories)
    for name, found in MODELS.items():
        assert re.fullmatch(r"[a-z0-9.-]+:[a-z0-9.-]+", name)
        assert entry(name) is found
        forms = [FORMS.index(one.form) for one in found.variants]
        assert forms == sorted(forms), name
        assert len(set(forms)) == len(forms), name
        sizes = [one.bytes for one in found.variants]
        assert sizes == sorted(sizes, reverse=True), name
        for one in found.variants:
            assert one.loaded_bytes == 0 or one.loaded_bytes > one.bytes
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", one.repository)
            check_name(one.repository)


@pytest.mark.parametrize("name", DENSE)
def test_bytes_are_those_of_the_configuration(name):
    found = MODELS[name]
    for one in found.variants:
        config = {**found.config, "torch_dtype": "bfloat16"}
        if FORMATS[one.kind]:
            config["quantization_config"] = FORMATS[one.kind]
        tensors = checkpoint(config).tensors.values()
        computed = sum(tensor.size_bytes for tensor in tensors)
        # Some versions keep a last layer that is the embedding.
        head = 2 * config["vocab_size"] * config["hidden_size"] * config["tie_word_embeddings"]
        close = pytest.approx(one.bytes, rel=0.02)
        assert computed == close or computed + head == close, one


@pytest.mark.parametrize(
    ("name", "billions"),
    # As the models' cards say them.
    [
        ("qwen3:8b", 8.2),
        ("qwen3:30b-a3b", 30.5),
        ("qwen2.5:7b", 7.61),
        ("llama3.1:8b", 8.03),
        ("llama3.2:1b", 1.24),
        ("gemma3:4b", 4.3),
        ("gemma3:27b", 27.4),
        ("mistral:7b", 7.25),
        ("phi4:14b", 14.7),
        ("phi4-mini:3.8b", 3.84),
    ],
)
def test_plain_weights_are_two_bytes_each(name, billions):
    assert MODELS[name].variants[0].bytes / 2e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "qwen3", "qwen3:7b", "a/qwen3:8b", ""])
def test_what_is_no_short_name(name):
    assert entry(name) is None


def test_capitals_do_not_matter():
    assert entry("Qwen3:8B") is entry("qwen3:8b")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qwen3:7b", "qwen3:8b"),
        ("qwen3", "qwen3:0.6b"),
        ("Qwen/Qwen3-8b", "qwen3:8b"),
        ("lama3.1:8b", "llama3.1:8b"),
        ("phi4", "phi4:14b"),
    ],
)
def test_similar_names(name, meant):
    assert meant in similar(name)


def test_nothing_is_similar_to_something_else():
    assert similar("facebook/opt") == []
    with pytest.raises(CheckpointError, match=r"like Qwen/Qwen3-8B$"):
        check_name("zephyr:x")
