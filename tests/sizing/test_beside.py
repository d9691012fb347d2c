"""What models that share a GPU get of it."""

import pytest

from tests.fit.checkpoints import write_checkpoint
from tests.fit.published import MODELS
from vgate.config.model import Model
from vgate.sizing.beside import share_beside

AWQ, GEMMA = "Qwen2.5-7B-AWQ", "Gemma-3-1b"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return {
        name: Model(model_id=str(write_checkpoint(directory / name, MODELS[name], empty=True)))
        for name in (AWQ, GEMMA)
    }


def test_parts_go_by_the_weights(models):
    large, small = models[AWQ], models[GEMMA]
    assert share_beside(large, []) == 1
    assert share_beside(large, [large]) == 0.5
    # 5.2 and 1.9 GiB, and half a GiB each.
    assert share_beside(large, [small]) == pytest.approx(0.705, abs=0.02)
    assert share_beside(large, [small]) + share_beside(small, [large]) == pytest.approx(1)
    given = Model(model_id="x", gpu_memory_utilization=0.4)
    assert share_beside(large, [small, given]) == pytest.approx(0.6 * share_beside(large, [small]))


def test_a_model_that_is_not_here_gets_an_equal_part(models, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert share_beside(models[AWQ], [Model(model_id="nobody/nothing")]) == 0.5
