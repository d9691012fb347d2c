"""What `vgate check` says of `auto`: what an engine would choose now."""

import stat

import pytest

from tests.fit.checkpoints import write_checkpoint
from tests.fit.published import MODELS
from vgate.config import Config
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Batch
from vgate.fit.gpu import GIB
from vgate.sizing import foreseen as module
from vgate.sizing.foreseen import foreseen

AWQ, LLAMA = "Qwen2.5-7B-AWQ", "Llama-3.1-8B"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return {
        name: str(write_checkpoint(directory / name, MODELS[name], empty=True))
        for name in (AWQ, LLAMA)
    }


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """No GPU, 64 GiB of memory, and no Hub."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "host_memory", lambda: 64 * GIB)
    monkeypatch.setattr(module, "is_wsl", lambda: False)


@pytest.fixture
def card(tmp_path):
    """Put an nvidia-smi on the path that tells of a card with so many MiB free of 8 GiB."""

    def put(free, *, name="RTX 4060", capability=8.9):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{name}, 8188, {free}, {capability}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return put


def lines(model, batch="auto", **more):
    return foreseen(Config(model=Model(**model), batch=Batch(max_num_seqs=batch), **more))


def test_a_card(models, card):
    card(7800)
    (line,) = lines({"model_id": models[AWQ], "served_model_name": "qwen"})
    assert line.startswith("qwen: context about 12,288, up to 48 answers at once, 2.")
    assert "if each takes all of it, 89.0% of the GPU: 7.6 GiB of 8.0 GiB are free" in line


def test_a_card_that_is_too_old_for_a_kv_cache_of_8_bits(models, card):
    card(7800, name="RTX 3060", capability=8.6)
    (line,) = lines({"model_id": models[AWQ], "kv_cache_dtype": "fp8"})
    assert "kv_cache_dtype is fp8, which RTX 3060 can't: only since Ada (8.9)" in line
    assert "context" in lines({"model_id": models[AWQ]})[0]


def test_a_card_that_others_use(models, card):
    card(3000)
    (line,) = lines({"model_id": models[AWQ]})
    assert "the weights of" in line
    assert "end other programs" in line
    # More than is free can't be had, whatever is asked for.
    assert lines({"model_id": models[AWQ], "gpu_memory_utilization": 0.9}) == [line]


def test_a_machine_without_a_card(models):
    (line,) = lines({"model_id": models[LLAMA]})
    assert "context about 32,768" in line
    assert "64.0 GiB of memory are available" in line


def test_what_is_given_is_not_foreseen(models):
    given = {"max_model_len": 4096, "gpu_memory_utilization": 0.8}
    assert lines({"model_id": models[AWQ], **given}, batch=4) == []
    (line,) = lines({"model_id": models[AWQ], **given})
    assert "context 4,096" in line


def test_the_task_is_told_unless_the_model_generates(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    given = {"max_model_len": 128, "gpu_memory_utilization": 0.8, "served_model_name": "e"}
    assert lines({"model_id": str(tmp_path), **given}, batch=4) == ["e: task embed"]
    assert lines({"model_id": str(tmp_path), **given, "task": "generate"}, batch=4) == []


def test_each_model_has_a_line_and_one_that_is_not_here_says_so(models):
    embedder = AdditionalModel(model_id="nobody/nothing", task="embed", served_model_name="e")
    first, second = lines({"model_id": models[AWQ]}, additional_models=[embedder])
    assert "context" in first
    assert second.startswith("e: the engine chooses")
    assert "nobody/nothing has not been fetched yet" in second
