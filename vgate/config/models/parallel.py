"""Whether a model can be split over GPUs as its settings say."""

from collections.abc import Iterator, Sequence
from typing import Any

from vgate.config.model import Model
from vgate.config.models.settings import CheckpointError
from vgate.config.schema import Config


def check_split(model: Model, document: dict[str, Any]) -> None:
    """Raise CheckpointError unless each GPU gets as many heads as the others, and a layer."""
    nested = document.get("text_config")
    text = nested if isinstance(nested, dict) else document
    heads, layers = text.get("num_attention_heads"), text.get("num_hidden_layers")
    size, stages = model.tensor_parallel_size, model.pipeline_parallel_size
    if isinstance(heads, int):
        grouped = text.get("num_key_value_heads")
        kv_heads = grouped if isinstance(grouped, int) and grouped > 0 else heads
        if not _fits(size, heads, kv_heads):
            # vLLM gives several GPUs the same key-value head where there are too few of them.
            possible = [str(n) for n in range(1, heads + 1) if _fits(n, heads, kv_heads)]
            raise CheckpointError(
                f"model.tensor_parallel_size is {size}, but {model.model_id} has {heads} attention "
                f"heads ({kv_heads} for keys and values), of which each GPU needs the same number: "
                f"set it to {_one_of(possible)}"
            )
    if isinstance(layers, int) and stages > layers:
        raise CheckpointError(
            f"model.pipeline_parallel_size is {stages}, but {model.model_id} has {layers} layers: "
            "set it to that or less"
        )


def is_split(config: Config) -> bool:
    """Whether a model needs several GPUs of this machine."""
    return any(map(_gpus_here, config.all_models))


def gpu_problems(config: Config, gpus: Sequence[str]) -> Iterator[str]:
    """Yield which models need more GPUs than this machine has; none if it has no GPU at all."""
    for model in config.all_models:
        if gpus and (needed := _gpus_here(model)) > len(gpus):
            yield (
                f"{model.model_id}: model.tensor_parallel_size ({model.tensor_parallel_size}) x "
                f"model.pipeline_parallel_size ({model.pipeline_parallel_size}) needs {needed} "
                f"GPUs, and this machine has {len(gpus)}: lower them, or set "
                "model.distributed_executor_backend: ray to use those of several machines"
            )


def _gpus_here(model: Model) -> int:
    """Return how many GPUs of this machine a model is split over; 0 if it isn't split."""
    # Ray finds GPUs of other machines, and so does vLLM if it is told of several.
    if model.distributed_executor_backend == "ray" or "nnodes" in model.engine_args:
        return 0
    size = model.tensor_parallel_size * model.pipeline_parallel_size
    return size if size > 1 else 0


def _fits(size: int, heads: int, kv_heads: int) -> bool:
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def _one_of(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
