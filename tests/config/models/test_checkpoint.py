"""What is wrong with a model's directory, told from its files alone."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vgate.config.model import Model
from vgate.config.models import CheckpointError, reading
from vgate.config.models.checkpoint import find_model

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NOBODY = 65534


@pytest.fixture
def directory(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def problem(directory: Path, **model: Any) -> str:
    """Return why a directory can't be served; "" if it can."""
    try:
        assert find_model(Model(model_id=str(directory), **model)) == directory.resolve()
    except CheckpointError as error:
        text = str(error)
        assert str(directory) in text
        assert "\n" not in text
        return text
    return ""


def only(directory: Path, *names: str) -> None:
    """Make a directory with files of these names and nothing else."""
    directory.mkdir()
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def shard(directory: Path, *names: str) -> None:
    """Give the weights to the first of these files, and list all in an index."""
    (directory / "model.safetensors").rename(directory / names[0])
    weights = {f"tensor{number}": name for number, name in enumerate(names)}
    (directory / INDEX).write_text(json.dumps({"weight_map": weights}))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read everything, for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


class TestWhere:
    def test_a_whole_model(self, directory):
        assert problem(directory) == ""

    def test_a_name_on_the_hub_is_none(self):
        for name in ("gpt2", "Qwen/Qwen3-8B"):
            assert find_model(Model(model_id=name)) is None

    @pytest.mark.parametrize("name", ["/no/where", "./no", "~/no", "a/b/c"])
    def test_no_directory(self, name):
        with pytest.raises(CheckpointError, match=f"there is no directory {name}"):
            find_model(Model(model_id=name))

    @pytest.mark.parametrize(("name", "words"), [("m.gguf", "GGUF"), ("m.safetensors", "a file")])
    def test_a_file(self, tmp_path, name, words):
        (tmp_path / name).write_bytes(b"")
        assert words in problem(tmp_path / name)

    def test_no_permission(self, directory):
        # pytest's own directories are closed to others.
        with tempfile.TemporaryDirectory() as root:
            Path(root).chmod(0o755)
            model = Path(shutil.copytree(directory, Path(root, "parent", "model")))
            model.chmod(0o755)
            for path in (model / "model.safetensors", model / "config.json", model, model.parent):
                path.chmod(0)
                with as_nobody():
                    found = problem(model)
                path.chmod(0o755)
                assert str(path) in found
                assert "permission" in found


class TestChatTemplate:
    def test_a_configured_one_that_cannot_be_read(self, directory, tmp_path):
        missing = tmp_path / "no.jinja"
        for name in (str(directory), "owner/name"):
            with pytest.raises(CheckpointError, match=f"cannot read {missing}: No such file"):
                find_model(Model(model_id=name, chat_template=str(missing)))
        missing.write_text("template")
        assert problem(directory, chat_template=str(missing)) == ""


class TestConfig:
    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ((), ["holds no model, it has no config.json"]),
            (("model.safetensors",), ["it has no config.json"]),
            (("adapter_config.json",), ["LoRA adapter", "model.lora_adapters"]),
            (("model_index.json", "unet/config.json"), ["diffusers"]),
            (("m-Q4_K_M.gguf", "README.md"), ["GGUF", "safetensors"]),
            (("params.json", "consolidated.safetensors"), ["authors' own format"]),
            (("refs/main", "snapshots/0a1b/config.json"), ["set it to", "snapshots/0a1b"]),
            (("Qwen/config.json",), ["set it to", "/Qwen,"]),
        ],
    )
    def test_it_says_what_there_is_instead(self, tmp_path, files, words):
        only(tmp_path / "m", *files)
        found = problem(tmp_path / "m")
        assert [word for word in words if word not in found] == []

    @pytest.mark.parametrize("content", ["", '{"architectures": [', "[]"])
    def test_a_broken_one(self, directory, content):
        (directory / "config.json").write_text(content)
        assert f"cannot read {directory}/config.json" in problem(directory)

    def test_the_task_must_be_the_models(self, directory):
        config = directory / "config.json"
        generates = json.loads(config.read_text())
        assert "has no task: classify" in problem(directory, task="classify")
        overrides = {"hf_overrides": {"architectures": ["Qwen2ForSequenceClassification"]}}
        assert not problem(directory, task="classify", engine_args=overrides)
        classifies = {**generates, "architectures": ["Qwen2ForSequenceClassification"]}
        config.write_text(json.dumps(classifies))
        assert not problem(directory, task="classify")
        for task in ("generate", "embed"):
            assert "classifies or ranks text: set task: classify" in problem(directory, task=task)

    def test_an_adapter_names_its_base(self, tmp_path):
        only(tmp_path / "m", "adapter_config.json")
        adapter = tmp_path / "m" / "adapter_config.json"
        adapter.write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')
        assert "its base model (Qwen/Qwen3-8B)" in problem(tmp_path / "m")


class TestWeights:
    def test_whole_shards(self, directory):
        shard(directory, "a.safetensors", "a.safetensors")
        assert problem(directory) == ""

    def test_missing_shards(self, directory):
        shard(directory, "a.safetensors", "b.safetensors", "c.safetensors")
        found = problem(directory)
        assert "lacks b.safetensors and 1 more of the 3 weight files" in found
        # As an unfinished download leaves a cache of the Hub.
        (directory / "b.safetensors").symlink_to("nowhere")
        assert "b.safetensors and 1 more" in problem(directory)
        shutil.copy(directory / "a.safetensors", directory / "c.safetensors")
        assert "lacks b.safetensors of the 3" in problem(directory)

    @pytest.mark.parametrize("size", [-1, 1000, 8, 5])
    def test_a_truncated_shard(self, directory, size):
        shard(directory, "a.safetensors")
        with (directory / "a.safetensors").open("rb+") as file:
            whole = file.seek(0, os.SEEK_END)
            file.truncate(size if size > 0 else whole + size)
        found = problem(directory)
        assert str(directory / "a.safetensors") in found
        if size == -1:
            assert f"{whole - 1} of {whole} bytes" in found

    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff" * 100])
    def test_another_file_in_its_place(self, directory, content):
        (directory / "model.safetensors").write_bytes(content)
        assert "damaged or not a safetensors file" in problem(directory)

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}'])
    def test_a_broken_index(self, directory, content):
        (directory / INDEX).write_text(content)
        assert INDEX in problem(directory)

    @pytest.mark.parametrize(
        ("instead", "words"),
        [
            ((), "holds no weights"),
            (("adapter_model.safetensors",), "LoRA adapter without its base model"),
            (("m.gguf",), "GGUF"),
        ],
    )
    def test_none(self, directory, instead, words):
        (directory / "model.safetensors").unlink()
        for name in instead:
            (directory / name).write_bytes(b"x")
        assert words in problem(directory)

    def test_gguf_beside_the_base_models_files(self, directory):
        (directory / "model.safetensors").unlink()
        wanted = {"quantization": "gguf"}
        assert "has to hold one GGUF file, and it has none" in problem(directory, **wanted)
        (directory / "m.gguf").write_bytes(b"GGUF and more")
        assert problem(directory, **wanted) == ""
        assert "set model.quantization: gguf" in problem(directory)
        (directory / "n.gguf").write_bytes(b"text")
        assert "it has 2 of them" in problem(directory, **wanted)
        (directory / "m.gguf").unlink()
        assert "n.gguf is no GGUF file" in problem(directory, **wanted)

    @pytest.mark.parametrize(
        ("index", "weights"),
        [
            ("pytorch_model.bin.index.json", "model.safetensors"),
            (INDEX, "pytorch_model.bin"),
        ],
    )
    def test_an_index_of_what_was_not_fetched_does_not_matter(self, directory, index, weights):
        (directory / index).write_text('{"weight_map": {"tensor": "shard"}}')
        (directory / "model.safetensors").rename(directory / weights)
        assert problem(directory) == ""
        (directory / weights).unlink()
        assert "holds no weights" in problem(directory)

    def test_missing_shards_of_pytorch(self, directory):
        (directory / "model.safetensors").rename(directory / "1.bin")
        index = directory / "pytorch_model.bin.index.json"
        index.write_text('{"weight_map": {"a": "1.bin", "b": "2.bin"}}')
        assert "lacks 2.bin of the 2 weight files" in problem(directory)

    def test_those_of_pytorch(self, directory):
        (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
        assert problem(directory) == ""

    def test_another_load_format_needs_none(self, directory):
        (directory / "model.safetensors").unlink()
        assert problem(directory, engine_args={"load_format": "dummy"}) == ""

    @pytest.mark.parametrize(
        "name",
        ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", INDEX],
    )
    def test_a_file_that_is_larger_than_any_models_is_not_read(self, directory, monkeypatch, name):
        shard(directory, "model-1.safetensors")
        (directory / "chat_template.jinja").write_text("{{ messages }}")
        (directory / "tokenizer_config.json").write_text("{}")
        largest = max(p.stat().st_size for p in directory.iterdir() if "safetensors" not in p.name)
        monkeypatch.setattr(reading, "MOST_BYTES", largest)
        assert problem(directory) == ""
        with (directory / name).open("a") as file:
            file.write(" " * largest)
        assert f"{name} has more than" in problem(directory)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
    def test_a_pointer_of_git_lfs(self, directory, name):
        (directory / name).write_bytes(POINTER)
        found = problem(directory)
        assert f"{name} is only a Git LFS pointer" in found
        assert "git lfs pull" in found


class TestTokenizer:
    @pytest.mark.parametrize("name", ["tokenizer.model", "vocab.txt", "qwen.tiktoken"])
    def test_other_formats(self, directory, name):
        (directory / "tokenizer.json").rename(directory / name)
        assert problem(directory) == ""

    def test_none(self, directory):
        (directory / "tokenizer.json").unlink()
        assert "has no tokenizer: copy tokenizer.json" in problem(directory)

    def test_one_made_of_code(self, directory):
        (directory / "tokenizer.json").unlink()
        (directory / "tokenizer_config.json").write_text('{"auto_map": {}}')
        assert problem(directory) == ""

    @pytest.mark.parametrize("argument", [{"tokenizer": "/other"}, {"skip_tokenizer_init": True}])
    def test_it_needs_none(self, directory, argument):
        (directory / "tokenizer.json").unlink()
        assert problem(directory, engine_args=argument) == ""


def test_gpus_share_the_heads_evenly(directory):
    path = directory / "config.json"
    document = json.loads(path.read_bytes()) | {
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_hidden_layers": 6,
    }
    path.write_text(json.dumps(document))
    for size in (1, 2, 4, 12):
        assert problem(directory, tensor_parallel_size=size) == ""
    # Of 6 GPUs, four could not share the key-value heads with two more.
    for size in (5, 6, 24):
        said = problem(directory, tensor_parallel_size=size)
        assert f"model.tensor_parallel_size is {size}, but" in said
        assert "12 attention heads (4 for keys and values)" in said
        assert said.endswith("set it to 1, 2, 4 or 12")
    assert problem(directory, pipeline_parallel_size=6) == ""
    said = problem(directory, pipeline_parallel_size=7)
    assert "model.pipeline_parallel_size is 7, but" in said
    assert said.endswith("has 6 layers: set it to that or less")
    # The language model of one that sees has settings of its own.
    path.write_text(json.dumps({**document, "num_attention_heads": 5, "text_config": document}))
    assert problem(directory, tensor_parallel_size=4) == ""
