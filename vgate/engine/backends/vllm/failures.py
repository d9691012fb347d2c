"""Explains why vLLM did not start or failed, and what the operator can do."""

import importlib.metadata
import re
from concurrent.futures import Future
from typing import Any

from vgate.config import Config
from vgate.config.model import Model as ModelConfig
from vgate.engine.backends.base import BackendError, Lack, WorkerDiedError
from vgate.sizing.room import gib, host_memory

WORKER_DIED = "a worker process of vLLM died"

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
    r"quantization method (\S+) is not supported for the current GPU\. "
    r"Minimum capability: (\d+)(\d)": (
        f"its quantization, {{}}, needs a GPU of compute capability {{}}.{{}}: {_ANOTHER_FORMAT}"
    ),
    r"(\S+ quantization is (?:currently )?not supported [^.]*)": f"{{}}: {_ANOTHER_FORMAT}",
    r"_C::(\w+)\(\) expected at most 0": (
        f"this build of vLLM has no kernel {{}}: {_ANOTHER_FORMAT}"
    ),
    r"(torch\.\w+ is not supported for quantization method \S+)\.": ("{}: set model.dtype to auto"),
    r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)": (
        "model.tensor_parallel_size x model.pipeline_parallel_size needs {} GPUs, and this machine "
        "has {}: lower them, or set model.distributed_executor_backend: ray to use those of others"
    ),
    r"max_num_batched_tokens \((\d+)\) must be greater than or equal to max_num_seqs \((\d+)\)": (
        "a step has {0} tokens, and batch.max_num_seqs is {1}: set it to {0} or less"
    ),
    r"Pipeline parallelism is not supported for this model": (
        "its code can't be split into stages: set model.pipeline_parallel_size to 1"
    ),
    r"Failed to infer device type": (
        "this build of vLLM needs a GPU and found none: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    ),
}
# What vLLM and torch say of too little memory, with their numbers, and what to say instead.
_MEMORY_IN_OTHER_WORDS = {
    r"To serve at least one request with .*? \((\d+)\), \(([\d.]+) GiB KV cache is needed, which "
    r"is larger than the available KV cache memory \(([\d.]+) GiB\)": (
        "a request of {} tokens, model.max_model_len, needs {} GiB of KV cache, and {} GiB are left"
    ),
    r"No available memory for the cache blocks": (
        "the weights and one step take all the memory that it may have, and none is left for the "
        "KV cache"
    ),
    r"Tried to allocate ([\d.]+ \w+)\. GPU \d+ has a total capacity of ([\d.]+ \w+) of which "
    r"([\d.]+ \w+) is free": (
        "the GPU's memory is full: it asked for {} more, and of {} are {} free"
    ),
    r"warming up \w+ with (\d+) dummy requests": (
        "the GPU's memory is full with {} sequences at once"
    ),
    r"(?:Free|Available) memory on \S+ \S+ \(([\d.]+)/([\d.]+) GiB\).*? is less than .*?"
    r"([\d.]+) GiB\)": ("of the memory's {1} GiB only {0} are free, and it asks for {2} GiB"),
}
_LONGEST_POSSIBLE = re.compile(r"estimated maximum model length is (\d+)")
# torch's sentence of its own process, and those of others on the same GPU.
_CAPACITY = re.compile(r"total capacity of ([\d.]+) (\w+) of which ([\d.]+) (\w+) is free")
_OWN_USE = re.compile(r"this process has ([\d.]+) (\w+) memory in use")
_MIB_OF = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0, "TiB": 1024.0**2}
# Others have a share of a GPU that a restart could find free.
_OTHERS_SHARE = 0.05
# What is said of a lack of memory or a device in use, which may be over at the next try.
_MEMORY_TAKEN = (
    *("out of memory", "free memory on device", "available memory on node"),
    *("can't allocate memory", "cannot allocate memory", "alloc_failed"),
)
# And of a KV cache that has no room.
_NO_ROOM = ("KV cache", "cache blocks", "auto-fit max_model_len")
_IN_USE = ("busy or unavailable", "address already in use")


def worker_failure(executor: Any) -> Exception | None:
    """Return why workers in processes of their own failed in a step; None if they didn't.

    Where vLLM schedules steps ahead it ignores a run of the model that failed, and fails without
    its reason when it looks for the tokens (step_with_batch_queue in vllm/v1/engine/core.py, which
    expects None where sample_tokens in vllm/v1/worker/gpu_model_runner.py returns an empty output).
    """
    if getattr(executor, "is_failed", False):
        # Often known before the death is reported.
        return WorkerDiedError(WORKER_DIED)
    for run in getattr(executor, "last_runs", ()):
        if isinstance(run, Future) and run.done() and (error := run.exception()) is not None:
            return RuntimeError(str(error))
    return None


def is_permanent(error: BaseException) -> bool:
    """Whether a restart would fail too: memory may be free then, a wrong option stays wrong."""
    if isinstance(error, WorkerDiedError) or _says(error, _IN_USE):
        return False
    return not _lacks_memory(error) or _has_the_gpu_alone(str(error))


def config_error(error: BaseException, config: Config) -> BackendError:
    """Return what to raise if vLLM does not take its configuration, which a restart won't change.

    Except where it had too little memory for that.
    """
    if _lacks_memory(error):
        return start_error(error, config)
    return BackendError(start_failure(error, config))


def start_error(error: BaseException, config: Config) -> BackendError:
    """Return what to raise if vLLM did not start: why, and whether it lacked memory."""
    lacks: Lack = ""
    if _lacks_memory(error):
        lacks = "memory"
    elif not is_cpu_build() and any(words in str(error) for words in _NO_ROOM):
        # On the CPU the cache has the size that was chosen, however small the rest is.
        lacks = "room"
    return BackendError(start_failure(error, config), permanent=is_permanent(error), lacks=lacks)


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
    if _lacks_memory(error) or any(words in text for words in _NO_ROOM):
        return _too_little_memory(text, config)
    for pattern, words in _IN_OTHER_WORDS.items():
        if (found := re.search(pattern, text)) is not None:
            return f"vLLM can't serve {config.model.model_id}: {words.format(*found.groups())}"
    return None


def _too_little_memory(text: str, config: Config) -> str:
    """Return what is lacking, in numbers, and what would help."""
    model, cpu = config.model, is_cpu_build()
    said = f"there is too little memory for {model.model_id}: {text}"
    if cpu:
        said += f" ({gib(host_memory())} are available)"
    for pattern, words in _MEMORY_IN_OTHER_WORDS.items():
        if found := re.search(pattern, text):
            said = (
                f"there is too little memory for {model.model_id}: {words.format(*found.groups())}"
            )
            break
    length = _lower("model.max_model_len", model.max_model_len)
    if longest := _LONGEST_POSSIBLE.search(text):
        length = f"set model.max_model_len to {longest[1]} or less"
    batch = _lower("batch.max_num_seqs", config.batch.max_num_seqs)
    share = "model.engine_args.kv_cache_memory_bytes" if cpu else "model.gpu_memory_utilization"
    value = model.engine_args.get("kv_cache_memory_bytes") if cpu else model.gpu_memory_utilization
    share += f" ({value})" if value is not None else ""
    if "KV cache" in text or "cache blocks" in text:
        more = f"raise {share}"
    else:
        place = "the machine's memory" if cpu else "the GPU's memory (nvidia-smi lists them)"
        more = f"end other programs that use {place}, or lower {share}"
    smaller = "serve a smaller model, or one that is quantised (AWQ, GPTQ, FP8)"
    sentence = f"{length}, {batch}, {more}, or {smaller}."
    return f"{said}.\n{sentence[0].upper()}{sentence[1:]}".replace("..", ".")


def _lower(name: str, value: object) -> str:
    return f"set {name}" if value == "auto" else f"lower {name} ({value})"


def _has_the_gpu_alone(text: str) -> bool:
    """Whether torch says that no other program has much of the GPU: a restart changes nothing."""
    capacity, own = _CAPACITY.search(text), _OWN_USE.search(text)
    if capacity is None or own is None:
        return False
    total, free, mine = (
        float(number) * _MIB_OF.get(unit, 0.0)
        for number, unit in (capacity.group(1, 2), capacity.group(3, 4), own.group(1, 2))
    )
    return total - free - mine < _OTHERS_SHARE * total


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
