"""Adapters on disk, and vLLM's arguments for them; runs without vLLM."""

import json
from pathlib import Path

import pytest

from tests.tiny_model import make_tiny_adapter
from vgate.config.schema import LoraAdapter, Model
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm.files import Adapter, lora_args, read_adapters


def model(*directories: Path) -> Model:
    adapters = [LoraAdapter(name=path.name, path=str(path)) for path in directories]
    return Model(lora_adapters=adapters)


def test_an_adapter_is_read(tmp_path: Path) -> None:
    directory = make_tiny_adapter(tmp_path / "one", rank=12)
    assert read_adapters(model(directory)) == [Adapter("one", str(directory.resolve()), 12)]
    assert read_adapters(Model()) == []


def test_the_largest_rank_counts(tmp_path: Path) -> None:
    config = make_tiny_adapter(tmp_path / "one", rank=4) / "adapter_config.json"
    document = json.loads(config.read_text())
    config.write_text(json.dumps({**document, "rank_pattern": {"q_proj": 40}}))
    (adapter,) = read_adapters(model(tmp_path / "one"))
    assert adapter.rank == 40


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("adapter_config.json", None, "has no adapter_config.json"),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_model.safetensors", "version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("adapter_model.safetensors", "1234567", "damaged or not a safetensors file"),
        ("adapter_config.json", "{", "cannot read"),
        ("adapter_config.json", "[]", "holds no JSON object"),
        ("adapter_config.json", "{}", "has no rank"),
        ("adapter_config.json", '{"r": "8"}', "has no rank"),
        ("adapter_config.json", '{"r": 0}', "has no rank"),
    ],
)
def test_a_directory_without_an_adapter_is_refused(
    tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    file = make_tiny_adapter(tmp_path / "one") / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(BackendError, match=problem) as caught:
        read_adapters(model(tmp_path / "one"))
    assert caught.value.permanent
    assert "one" in str(caught.value)


def test_vllm_has_room_for_all_adapters(tmp_path: Path) -> None:
    directories = [make_tiny_adapter(tmp_path / str(n), rank=n) for n in (2, 17, 8)]
    arguments = lora_args(model(*directories))
    assert arguments == {
        "enable_lora": True,
        "max_lora_rank": 32,
        "max_loras": 3,
        "max_cpu_loras": 3,
    }
    assert lora_args(Model()) == {}


def test_a_batch_has_at_most_so_many_adapters_and_all_stay_in_memory(tmp_path: Path) -> None:
    directories = [make_tiny_adapter(tmp_path / str(n), rank=1) for n in range(10)]
    arguments = lora_args(model(*directories))
    assert (arguments["max_loras"], arguments["max_cpu_loras"]) == (8, 10)


def test_a_rank_without_a_kernel_is_refused(tmp_path: Path) -> None:
    config = make_tiny_adapter(tmp_path / "one") / "adapter_config.json"
    config.write_text('{"r": 513}')
    with pytest.raises(BackendError, match="`one` has rank 513, the most is 512"):
        lora_args(model(tmp_path / "one"))
