"""Explains why vLLM did not start, and what the operator can do."""

import importlib.metadata
import re

from vgate.config import Config
from vgate.config.schema import Model as ModelConfig

# What vLLM and transformers say of a model that they can't serve, and what to say instead.
_ANOTHER = "serve another model, or update V-Gate if this one is new"
_ANOTHER_FORMAT = "take a version of it in another format, or one that isn't quantized"
_IN_OTHER_WORDS = {
    r"Model architectures (\[.*?\]) are not supported": (
        f"this vLLM can't run its architecture, {{}}: {_ANOTHER}"
    ),
    r"has model type `(.+?)` but Transformers does not recognize": (
        f"this vLLM doesn't know its model_type, {{}}: {_ANOTHER}"
    ),
    r"Should have a `model_type` key": (
        "its config.json has no model_type: copy the file from where the model comes from"
    ),
    r"trust_remote_code=True": (
        "it has Python code of its own: set model.trust_remote_code: true if you trust that"
    ),
    r"Unknown quantization method: (\S+)\. ": (
        f"this vLLM doesn't know its quantization, {{}}: {_ANOTHER_FORMAT}"
    ),
    r"(\S+ quantization is (?:currently )?not supported [^.]*)": f"{{}}: {_ANOTHER_FORMAT}",
    r"_C::(\w+)\(\) expected at most 0": (
        f"this build of vLLM has no kernel {{}}: {_ANOTHER_FORMAT}"
    ),
    r"(torch\.\w+ is not supported for quantization method \S+)\.": ("{}: set model.dtype to auto"),
    r"Failed to infer device type": (
        "this build of vLLM needs a GPU and found none: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    ),
}
_GPU_MEMORY = (
    "The GPU's memory does not hold the model: free it of other programs, lower "
    "model.max_model_len, or serve a smaller or quantized model. If memory is left over, raise "
    "model.gpu_memory_utilization."
)
_CPU_MEMORY = (
    "The machine's memory does not hold the model: free it of other programs, lower "
    "model.engine_args.kv_cache_memory_bytes, or serve a smaller model."
)
# What is said of a lack of memory or a device in use, which may be over at the next try.
_MEMORY_TAKEN = (
    *("out of memory", "free memory on device", "available memory on node"),
    *("can't allocate memory", "cannot allocate memory", "alloc_failed"),
)
_IN_USE = ("busy or unavailable", "address already in use")


def is_permanent(error: BaseException) -> bool:
    """Whether a restart would fail too: memory may be free then, a wrong option stays wrong."""
    return not (_lacks_memory(error) or _says(error, _IN_USE))


def start_failure(error: BaseException, config: Config) -> str:
    """Return why vLLM did not start, and what to do if that is known."""
    known = explanation(error, config)
    return known or f"vLLM can't serve {config.model.model_id}: {_problem(error, config.model)}"


def explanation(error: BaseException, config: Config) -> str | None:
    """Return why vLLM did not start and what to do; None if it is not known."""
    text = _problem(error, config.model)
    too_long = re.search(
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)", text
    )
    if too_long:
        asked, possible = too_long.groups()
        return (
            f"model.max_model_len is {asked}, but the model's own context is {possible} tokens: "
            "set it to that or less"
        )
    if _lacks_memory(error):
        return f"{text}\n{_CPU_MEMORY if is_cpu_build() else _GPU_MEMORY}"
    if "KV cache" in text:
        memory = (
            "model.engine_args.kv_cache_memory_bytes"
            if is_cpu_build()
            else "model.gpu_memory_utilization"
        )
        return f"{text}\nLower model.max_model_len or batch.max_num_seqs, or raise {memory}."
    for pattern, words in _IN_OTHER_WORDS.items():
        if (found := re.search(pattern, text)) is not None:
            return f"vLLM can't serve {config.model.model_id}: {words.format(*found.groups())}"
    return None


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _says(error, _MEMORY_TAKEN)


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(phrase in text for phrase in phrases)


def _problem(error: BaseException, model: ModelConfig) -> str:
    """Return vLLM's own message, without pydantic's additions."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return first_paragraph(error)
    first = error.errors()[0]
    text: str = first["msg"].removeprefix("Value error, ").strip().split("\n\n", 1)[0]
    if first["type"] == "value_error":
        return text
    name = ".".join(map(str, first["loc"]))
    if name not in model.engine_args:
        # vLLM's configuration leaves out prefixes of its arguments: kv_cache_dtype is cache_dtype
        # there.
        name = next((key for key in model.engine_args if key.endswith(name)), name)
    where = f"model.engine_args.{name}" if name in model.engine_args else name
    return f"{where}: {text}, got {first['input']!r}"


def first_paragraph(error: BaseException) -> str:
    """Return an error's message without its details."""
    return str(error).strip().split("\n\n", 1)[0] or type(error).__name__


def is_cpu_build() -> bool:
    """Whether the installed torch has no GPU support."""
    try:
        return "cpu" in importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
