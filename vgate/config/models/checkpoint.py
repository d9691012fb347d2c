"""Whether a model's directory can be served, as far as its files tell.

`vgate check` and the engine, before it imports vLLM, say the same. Of the weights only the headers
are read.
"""

import json
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from vgate.config.model import Model
from vgate.config.models.names import check_name, expanded
from vgate.config.models.parallel import check_split
from vgate.config.models.reading import content_of
from vgate.config.models.settings import CheckpointError, check_config
from vgate.config.models.task import with_task
from vgate.config.models.template import check_template, check_template_file

# What vLLM loads unless `load_format` names something else, in its order of preference: the index,
# if there is one, or all files that end so.
_WEIGHTS = (
    ("model.safetensors.index.json", ".safetensors"),
    ("pytorch_model.bin.index.json", ".bin"),
    ("", ".pt"),
)
_WEIGHT_FORMATS = {"auto", "hf", "safetensors", "pt"}
_ADAPTER_WEIGHTS = {"adapter_model.safetensors", "adapter_model.bin"}
# Of one of these transformers makes a tokenizer; SentencePiece has several names.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "tekken.json"}
_VOCABULARY_ENDS = (".model", ".tiktoken", ".spm")
GGUF = "gguf"
_GGUF_MAGIC = b"GGUF"
# The second is what vLLM's plugin can do with it, on a GPU.
_INSTEAD_OF_GGUF = (
    "take the model's version with safetensors files, in AWQ, GPTQ or FP8 if it has to be small; "
    "or put one GGUF file beside its base model's config.json and tokenizer, name their "
    "directory, and set model.quantization: gguf"
)
_WHAT_IT_NEEDS = "; name a directory with config.json, a tokenizer and safetensors files"
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# https://github.com/huggingface/safetensors#format: a length, a header and the tensors' bytes.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


class _Tokenizer(msgspec.Struct):
    model: msgspec.Raw


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int] = (0, 0)
    shape: list[int] = []


def find_model(model: Model) -> Path | None:
    """Return the model's directory, once checked; None if it is the name of a model on the Hub.

    Raises:
        CheckpointError: There is no such directory, it can't be served, or the configured chat
            template can't be read.
    """
    path = expanded(model.model_id)
    if model.chat_template:
        with _readable():
            check_template_file(Path(model.chat_template))
    with _readable(), suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(path.stat().st_mode):
            directory = path.resolve()
            check_files(model, directory)
            return directory
        raise _only_a_file(path)
    check_name(model.model_id)
    return None


def _only_a_file(path: Path) -> CheckpointError:
    where = f"model.model_id: {path} is a file"
    if path.suffix == ".gguf":
        return CheckpointError(f"{where}, and GGUF files can't be served alone: {_INSTEAD_OF_GGUF}")
    if (path.parent / "config.json").is_file():
        return CheckpointError(f"{where}; name its directory, {path.parent}")
    return CheckpointError(f"{where}{_WHAT_IT_NEEDS}")


def check_files(model: Model, directory: Path) -> None:
    """Raise CheckpointError if a directory hasn't a model's files, whole and readable."""
    with _readable():
        names = {path.name for path in directory.iterdir()}
        if "config.json" not in names:
            raise _no_model(directory, names)
        check_whole(directory, ["config.json"])
        model = with_task(model, directory)
        document = json_object(directory / "config.json")
        check_config(model, directory, document)
        check_split(model, document)
        arguments = model.engine_args
        if model.quantization == GGUF:
            _check_gguf(directory, names)
        elif arguments.get("load_format", "auto") in _WEIGHT_FORMATS:
            _check_weights(directory, names)
        if model.task == "generate" and not model.chat_template:
            check_template(directory, names)
        if not arguments.get("tokenizer") and not arguments.get("skip_tokenizer_init"):
            _check_tokenizer(directory, names)


@contextmanager
def _readable() -> Iterator[None]:
    """Raise CheckpointError where the system refuses to read."""
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(
            f"{error.filename} can't be read by this user: give the user that runs V-Gate "
            "permission to read the model's directory and files"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from None


def _no_model(directory: Path, names: set[str]) -> CheckpointError:
    where = f"model.model_id: {directory}"
    if "adapter_config.json" in names:
        base = json_object(directory / "adapter_config.json").get("base_model_name_or_path")
        return CheckpointError(
            f"{where} holds a LoRA adapter, not a model: set model.model_id to its base model "
            f"({base or 'which its authors name'}) and list the adapter in model.lora_adapters"
        )
    if "model_index.json" in names:
        return CheckpointError(
            f"{where} holds a diffusers pipeline, which makes images or video: only language and "
            "embedding models can be served"
        )
    if any(name.endswith(".gguf") for name in names):
        return _only_gguf(where)
    if "params.json" in names:
        return CheckpointError(
            f"{where} holds a model in its authors' own format (params.json): take the version "
            "with config.json and safetensors files"
        )
    # The second is a model's directory in a cache of the Hub.
    inside = [*directory.glob("*/config.json"), *directory.glob("snapshots/*/config.json")]
    hint = f"; set it to {inside[0].parent}, which has" if inside else _WHAT_IT_NEEDS
    return CheckpointError(f"{where} holds no model, it has no config.json{hint}")


def _only_gguf(where: str) -> CheckpointError:
    return CheckpointError(
        f"{where} holds GGUF files, which can't be served alone: {_INSTEAD_OF_GGUF}"
    )


def _check_gguf(directory: Path, names: set[str]) -> None:
    files = sorted(_ending(names, ".gguf"))
    if len(files) != 1:
        found = f"{len(files)} of them" if files else "none"
        raise CheckpointError(
            f"model.quantization is gguf, for which {directory} has to hold one GGUF file, and it "
            f"has {found}"
        )
    check_whole(directory, files)
    with (directory / files[0]).open("rb") as file:
        if file.read(len(_GGUF_MAGIC)) != _GGUF_MAGIC:
            raise CheckpointError(f"{directory / files[0]} is no GGUF file: fetch it again")


def _check_weights(directory: Path, names: set[str]) -> None:
    found = names - _ADAPTER_WEIGHTS
    for index, end in _WEIGHTS:
        if files := _ending(found, end):
            if index in names:
                files = _weight_map(directory / index)
                _check_complete(directory, index, files)
            check_whole(directory, files)
            return
    raise _no_weights(directory, names)


def _ending(names: set[str], end: str) -> set[str]:
    return {name for name in names if name.endswith(end)}


def _weight_map(index: Path) -> set[str]:
    weights = json_object(index).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(file, str) for file in weights.values()):
        raise CheckpointError(f"{index} has no weight_map: fetch the file again")
    return set(weights.values())


def _check_complete(directory: Path, index: str, files: set[str]) -> None:
    # A name in a cache of the Hub is a link, which may lead nowhere.
    missing = sorted(name for name in files if not (directory / name).exists())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{directory} lacks {missing[0]}{more} of the {len(files)} weight files that {index} "
            "lists: fetch the model again"
        )


def _no_weights(directory: Path, names: set[str]) -> CheckpointError:
    where = f"model.model_id: {directory}"
    if names & _ADAPTER_WEIGHTS:
        return CheckpointError(
            f"{where} holds a LoRA adapter without its base model: set model.model_id to the base "
            "model and list the adapter in model.lora_adapters"
        )
    if _ending(names, ".gguf"):
        return _only_gguf(where)
    return CheckpointError(
        f"{where} holds no weights (*.safetensors): the download may have stopped, fetch the "
        "model again"
    )


def _check_tokenizer(directory: Path, names: set[str]) -> None:
    found = {name for name in names if name.endswith(_VOCABULARY_ENDS)}
    found |= names & _VOCABULARIES
    if "tokenizer_config.json" in names:
        found |= json_object(directory / "tokenizer_config.json").keys() & {"auto_map"}
    if not found:
        raise CheckpointError(
            f"{directory} has no tokenizer: copy tokenizer.json, or tokenizer.model, and "
            "tokenizer_config.json from where the model comes from"
        )
    check_whole(directory, found - {"auto_map"})
    if "tokenizer.json" in names:
        try:
            msgspec.json.decode(content_of(directory / "tokenizer.json"), type=_Tokenizer)
        except msgspec.DecodeError as error:
            raise CheckpointError(
                f"the tokenizer in {directory} can't be read, tokenizer.json is damaged ({error}). "
                "Fetch its files again"
            ) from None


def check_whole(directory: Path, names: Iterable[str]) -> None:
    """Raise CheckpointError if files can't be read, or safetensors files are not whole."""
    with _readable():
        for name in sorted(names):
            path = directory / name
            with path.open("rb") as file:
                if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                    raise CheckpointError(
                        f"{path} is only a Git LFS pointer to the file: run `git lfs pull` in the "
                        "directory, or fetch it in another way"
                    )
            if name.endswith(".safetensors"):
                _check_safetensors(path)


def shapes(path: Path) -> dict[str, list[int]]:
    """Return a safetensors file's shapes by tensor; raise CheckpointError if it isn't whole."""
    tensors = _check_safetensors(path)
    return {name: tensor.shape for name, tensor in tensors.items()}


def _check_safetensors(path: Path) -> dict[str, _Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        content = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
    try:
        tensors = msgspec.json.decode(content, type=dict[str, _Tensor])
    except msgspec.DecodeError:
        raise CheckpointError(
            f"{path} ({size} bytes) is damaged or not a safetensors file: fetch it again"
        ) from None
    ends = (tensor.data_offsets[1] for tensor in tensors.values())
    whole = _LENGTH_BYTES + length + max(ends, default=0)
    if size != whole:
        raise CheckpointError(
            f"{path} is not whole, it has {size} of {whole} bytes: fetch it again"
        )
    return tensors


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise CheckpointError if it holds none."""
    try:
        document = json.loads(content_of(path))
    except ValueError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"cannot read {path}: it holds no JSON object")
    return document
