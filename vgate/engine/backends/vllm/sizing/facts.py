"""What vLLM, the driver and the model's files tell of a start before anything is loaded."""

import time
from pathlib import Path
from typing import Any

from vllm import EngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.import_utils import import_pynvml

from vgate.config import Config
from vgate.engine.backends.gpus import GpuFigures, gpu_figures
from vgate.fit import Checkpoint, FitError, read_checkpoint
from vgate.log import Log

# KV caches on the CPU for models that can't be computed have numbers of 32 bits.
_NUMBER_BYTES = 4

log = Log("vgate.engine.vllm")


def sequences_by_vllm(workers: int, arguments: dict[str, Any]) -> int:
    """Return the most sequences at once that vLLM's own server would run."""
    _, defaults = EngineArgs.get_batch_defaults(workers)
    usual: int = defaults[UsageContext.OPENAI_API_SERVER]
    # vLLM refuses more sequences than tokens in a step.
    return min(usual, arguments.get("max_num_batched_tokens") or usual)


def own_context(config: Config, arguments: dict[str, Any]) -> int:
    """Return the model's own context as vLLM derives it, or the one that is asked for."""
    given = config.model.max_model_len
    if given != "auto":
        return given
    found: int = EngineArgs(**arguments | {"max_model_len": -1}).create_model_config().max_model_len
    return found


def checkpoint_of(directory: Path) -> Checkpoint | None:
    """Return what the model's files tell of it; None if they can't be computed."""

    def fetch(name: str) -> Any:
        raise FitError(f"there is no directory {name}")

    try:
        return read_checkpoint(str(directory), None, fetch)
    except FitError as error:
        log.debug("the model's memory is not known before it is loaded", reason=error)
        return None


def figures_of(config: Config) -> list[GpuFigures]:
    """Return the figures of the GPUs that vLLM may use; none if they aren't known."""
    model = config.model
    if not current_platform.is_cuda() or model.distributed_executor_backend == "ray":
        return []
    workers = range(model.tensor_parallel_size * model.pipeline_parallel_size)
    try:
        numbers = [current_platform.device_id_to_physical_device_id(n) for n in workers]
    except (IndexError, RuntimeError, ValueError) as error:  # vLLM says what is wrong
        log.debug("not all GPUs can be seen", error=error)
        return []
    return gpu_figures(import_pynvml(), numbers, time.sleep)


def kv_bytes(document: dict[str, Any], context: int, sequences: int) -> int | None:
    """Return a KV cache for so many sequences; None if the architecture names its sizes its way."""
    try:
        text = document.get("text_config") or document
        heads = text["num_attention_heads"]
        head_size = text.get("head_dim") or text["hidden_size"] // heads
        kv_heads = text.get("num_key_value_heads") or heads
        per_token: int = 2 * text["num_hidden_layers"] * kv_heads * head_size * _NUMBER_BYTES
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        return None
    return sequences * context * per_token
