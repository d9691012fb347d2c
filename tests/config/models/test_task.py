"""What a model does, by files as the models have them: only what matters of these."""

import json
from pathlib import Path
from typing import Any

import pytest

from vgate.config.model import Model
from vgate.config.models.task import known_task, task_in

POOLING = "sentence_transformers.models.Pooling"
NEW_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
RERANKER = {"hf_overrides": {"architectures": ["Qwen3ForSequenceClassification"]}}


def write(directory: Path, architectures: Any, *modules: str) -> Path:
    """Write a config.json, and a modules.json if there are modules."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"architectures": architectures}))
    if modules:
        document = [{"idx": idx, "type": kind} for idx, kind in enumerate(modules)]
        (directory / "modules.json").write_text(json.dumps(document))
    return directory


@pytest.mark.parametrize(
    ("architecture", "modules", "task"),
    [
        ("LlamaForCausalLM", (), "generate"),  # also with code that vLLM has for its embeddings
        ("Qwen3ForCausalLM", (), "generate"),
        ("Qwen3ForCausalLM", ("sentence_transformers.models.Transformer", POOLING), "embed"),
        ("Gemma3TextModel", (NEW_POOLING,), "embed"),
        ("Qwen3ForCausalLM", ("sentence_transformers.models.Transformer",), "generate"),
        ("Qwen2VLForConditionalGeneration", (), "generate"),
        ("GPT2LMHeadModel", (), "generate"),
        ("MiniCPMV", (), "generate"),
        ("ChatGLMModel", (), "generate"),
        ("BertModel", (), "embed"),
        ("XLMRobertaModel", (POOLING,), "embed"),
        ("ModernBertModel", (), "embed"),
        ("RobertaForMaskedLM", (), "embed"),
        ("T5EncoderForTextEncoding", (), "embed"),
        ("Qwen2ForRewardModel", (), "embed"),
        ("BertForSequenceClassification", (), "classify"),
        ("XLMRobertaForSequenceClassification", (), "classify"),
        ("ModernBertForSequenceClassification", (POOLING,), "classify"),
        ("Qwen3ForSequenceClassification", (), "classify"),  # vLLM converts its sibling
        ("JinaVLForRanking", (), "classify"),
        ("NobodyKnowsIt", (), "generate"),
    ],
)
def test_the_task_follows_from_the_files(tmp_path, architecture, modules, task):
    directory = write(tmp_path / "m", [architecture], *modules)
    assert task_in(directory, Model()) == task
    assert known_task(Model(model_id=str(directory))) == task


@pytest.mark.parametrize("task", ["generate", "embed", "classify"])
def test_a_given_task_counts(tmp_path, task):
    directory = write(tmp_path / "m", ["BertModel"], POOLING)
    model = Model(model_id=str(directory), task=task)
    assert task_in(directory, model) == known_task(model) == task


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (RERANKER, "classify"),
        ({"convert": "classify"}, "classify"),
        ({"convert": "embed"}, "embed"),
        ({"runner": "pooling"}, "embed"),
        ({"runner": "auto", "hf_overrides": {}}, "generate"),
    ],
)
def test_arguments_of_vllm_count(tmp_path, arguments, task):
    directory = write(tmp_path / "m", ["Qwen3ForCausalLM"])
    assert task_in(directory, Model(engine_args=arguments)) == task


def test_it_generates_if_told_to_vllm_though_it_could_embed(tmp_path):
    directory = write(tmp_path / "m", ["Qwen3ForCausalLM"], POOLING)
    assert task_in(directory, Model(engine_args={"runner": "generate"})) == "generate"


@pytest.mark.parametrize("architectures", [None, [], "BertModel", [None], {}])
def test_files_that_tell_nothing(tmp_path, architectures):
    assert task_in(write(tmp_path / "m", architectures), Model()) == "generate"


@pytest.mark.parametrize("content", ["", "[]", "[[[" * 100_000, '[{"type": []}, 1]', '{"a": 1}'])
def test_damaged_files_are_for_others_to_report(tmp_path, content):
    directory = write(tmp_path / "m", ["LlamaForCausalLM"])
    (directory / "modules.json").write_text(content)
    assert task_in(directory, Model()) == "generate"
    (directory / "config.json").write_text(content)
    assert task_in(directory, Model()) == "generate"


def test_what_is_not_here_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert known_task(Model(model_id="BAAI/bge-m3")) is None
    assert known_task(Model(model_id=str(tmp_path))) is None  # it has no config.json
    write(tmp_path / "models--BAAI--bge-m3" / "snapshots" / "abc", ["XLMRobertaModel"])
    assert known_task(Model(model_id="BAAI/bge-m3", revision="abc")) == "embed"
    assert known_task(Model(model_id="bge-m3:567m")) == "embed"  # by the catalogue
