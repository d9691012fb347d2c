"""Adapters on disk, and vLLM's arguments for them; runs without vLLM."""

import json
from pathlib import Path

import pytest

from tests.tiny_model import make_tiny_adapter, make_tiny_model
from vgate.config.model import LoraAdapter, Model
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm import files
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
    arguments = lora_args(read_adapters(model(*directories)))
    assert arguments == {
        "enable_lora": True,
        "max_lora_rank": 32,
        "max_loras": 3,
        "max_cpu_loras": 3,
    }
    assert lora_args([]) == {}


def test_a_batch_has_at_most_so_many_adapters_and_all_stay_in_memory(tmp_path: Path) -> None:
    directories = [make_tiny_adapter(tmp_path / str(n), rank=1) for n in range(10)]
    arguments = lora_args(read_adapters(model(*directories)))
    assert (arguments["max_loras"], arguments["max_cpu_loras"]) == (8, 10)


def test_a_rank_without_a_kernel_is_refused(tmp_path: Path) -> None:
    config = make_tiny_adapter(tmp_path / "one") / "adapter_config.json"
    config.write_text('{"r": 513}')
    with pytest.raises(BackendError, match="`one` has rank 513, the most is 512"):
        read_adapters(model(tmp_path / "one"))


class TestFormats:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return make_tiny_model(tmp_path / "model")

    def configure(self, directory: Path, **values: object) -> dict[str, object]:
        path = directory / "config.json"
        document = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps(document))
        return document

    @pytest.mark.parametrize("name", ["bitsandbytes", "gguf"])
    def test_a_format_without_its_plugin_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, directory: Path, name: str
    ) -> None:
        monkeypatch.setattr(files, "is_cpu_build", lambda: False)
        document = self.configure(directory, quantization_config={"quant_method": name})
        for settings in ({}, {"quantization": name}):
            named = Model(model_id=str(directory), **settings)
            monkeypatch.setattr(files, "find_spec", lambda _name: None)
            with pytest.raises(BackendError, match=f"set model.quantization: {name} and start"):
                files.check_quantization(named, directory, document)
            monkeypatch.setattr(files, "find_spec", lambda name: name)
            files.check_quantization(named, directory, document)

    def test_a_cpu_has_no_kernels_for_gguf(
        self, monkeypatch: pytest.MonkeyPatch, directory: Path
    ) -> None:
        monkeypatch.setattr(files, "is_cpu_build", lambda: True)
        with pytest.raises(BackendError, match="computed on NVIDIA GPUs only"):
            files.check_quantization(Model(quantization="gguf"), directory, {})
        files.check_quantization(Model(), directory, {})

    def test_which_formats_a_model_may_have(self, directory: Path) -> None:
        model = Model(model_id=str(directory), quantization="fp8")
        assert files.weight_formats(model, directory) == {"fp8"}
        self.configure(directory, quantization_config={"quant_method": "bitsandbytes"})
        assert files.weight_formats(model, directory) == {"fp8", "bitsandbytes"}
        assert files.weight_formats(Model(model_id="acme/absent"), None) == set()

    def test_a_gguf_file_is_loaded_with_its_base_models_files(self, directory: Path) -> None:
        (directory / "m.gguf").write_bytes(b"GGUF")
        assert files.gguf_args(Model(), directory) == {}
        assert files.gguf_args(Model(quantization="gguf"), directory) == {
            "model": str(directory / "m.gguf"),
            "tokenizer": str(directory),
            "hf_config_path": str(directory),
        }

    @pytest.mark.parametrize(
        ("named", "tensor", "expected"),
        [
            ({"num_nextn_predict_layers": 1}, "model.layers.2.eh_proj.weight", True),
            ({"mtp_num_hidden_layers": 1}, "mtp.layers.0.mlp.weight", True),
            ({"mtp_num_hidden_layers": 1}, "model.layers.1.mlp.weight", False),
            ({"num_nextn_predict_layers": 0}, "mtp.layers.0.mlp.weight", False),
            ({}, "mtp.layers.0.mlp.weight", False),
        ],
    )
    def test_layers_that_draft_are_in_the_weights(
        self, directory: Path, named: dict[str, int], tensor: str, expected: bool
    ) -> None:
        header = json.dumps({tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
        content = len(header).to_bytes(8, "little") + header.encode() + bytes(4)
        (directory / "model.safetensors").write_bytes(content)
        document = self.configure(directory, num_hidden_layers=2, **named)
        assert files.has_mtp(directory, document) is expected
        inner = {"text_config": document, "architectures": []}
        assert files.has_mtp(directory, inner) is expected
