"""The settings of a model: which it is, how vLLM runs it, and when it is loaded."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from vgate.config.section import MIB, NonEmptyStr, PositiveFloat, Section
from vgate.keys import PositiveInt

# A GPU: its number, as nvidia-smi lists it, or its UUID.
Device = Annotated[int, Meta(ge=0)] | NonEmptyStr

# What a model does: it generates text, embeds it, or classifies (or ranks) it.
Task = Literal["generate", "embed", "classify"]
# auto: what its files tell (`models/task.py`), by which its engine goes.
TaskSetting = Task | Literal["auto"]

# Numbers of the KV cache. auto: the model's own type; the others are vLLM's.
KvCacheType = Literal["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"]
# When a model is loaded. resident: from the start, but another model may take its place; on_demand:
# when a request names it; pinned: always.
Load = Literal["resident", "on_demand", "pinned"]

# A share of the GPU's memory. auto: the engine chooses by what is free when it starts.
Share = Annotated[float, Meta(gt=0, le=1)] | Literal["auto"]

_CARD_SETTINGS = (
    *("kv_cache_dtype", "weights_offload_gib", "kv_offload_gib", "prefix_caching"),
    *("cuda_graphs", "expandable_segments", "speculation", "speculation_tokens"),
)


class LoraAdapter(Section, frozen=True):
    """A LoRA adapter in a directory; requests choose it by its name."""

    name: NonEmptyStr
    path: NonEmptyStr


class Model(Section, frozen=True):
    """A model and how vLLM runs it."""

    model_id: NonEmptyStr = "Qwen/Qwen2.5-1.5B-Instruct-AWQ"
    served_model_name: NonEmptyStr | Annotated[list[NonEmptyStr], Meta(min_length=1)] | None = None
    quantization: NonEmptyStr | None = None
    gpu_memory_utilization: Share = "auto"
    max_model_len: PositiveInt | Literal["auto"] = "auto"
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    distributed_executor_backend: Literal["mp", "ray"] | None = None
    replicas: Annotated[int, Meta(ge=1, le=64)] | Literal["auto"] = 1
    devices: Annotated[list[Device], Meta(min_length=1)] | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    revision: NonEmptyStr | None = None
    trust_remote_code: bool = False
    chat_template: NonEmptyStr | None = None
    chat_template_kwargs: dict[str, Any] = {}
    generation_config: Literal["auto", "vllm"] = "auto"
    task: TaskSetting = "auto"
    tool_parser: NonEmptyStr = "auto"
    reasoning_parser: Literal["auto", "none", "think"] = "auto"
    allow_request_chat_template: bool = False
    lora_adapters: list[LoraAdapter] = []
    engine_args: dict[str, Any] = {}
    kv_cache_dtype: KvCacheType = "auto"
    weights_offload_gib: Annotated[float, Meta(ge=0)] = 0
    kv_offload_gib: Annotated[float, Meta(ge=0)] = 0
    prefix_caching: bool | None = None
    cuda_graphs: Literal["auto", "few", "all", "none"] = "auto"
    expandable_segments: bool | None = None
    speculation: Literal["none", "auto", "ngram", "mtp"] = "none"
    speculation_tokens: Annotated[int, Meta(ge=1, le=16)] | None = None
    load: Load = "resident"
    idle_ttl_s: Annotated[float, Meta(ge=0)] = 0
    memory_bytes: Annotated[int, Meta(ge=MIB)] | None = None
    fill: Literal["auto", "always", "never"] = "auto"

    @property
    def name(self) -> str:
        """The model's name in answers: the first of `served_names`."""
        return self.served_names[0]

    @property
    def served_names(self) -> list[str]:
        """Names that requests may use."""
        names = self.served_model_name
        if names is None:
            return [self.model_id]
        return [names] if isinstance(names, str) else list(names)

    @property
    def card_settings(self) -> dict[str, Any]:
        """The settings of what depends on the card, all of which change what memory is taken."""
        return {name: getattr(self, name) for name in _CARD_SETTINGS}

    @property
    def adapter_names(self) -> list[str]:
        """Names of the model's LoRA adapters."""
        return [adapter.name for adapter in self.lora_adapters]


class AdditionalModel(Model, frozen=True, kw_only=True):
    """Another model, in engine processes of its own; it has to be named."""

    model_id: NonEmptyStr


class Residency(Section, frozen=True):
    """Which models are loaded at once, where not all of them fit."""

    memory_bytes: Annotated[int, Meta(ge=MIB)] | None = None
    min_loaded_s: Annotated[float, Meta(ge=0)] = 10
    max_wait_s: PositiveFloat = 60
    max_waiting: PositiveInt = 256
    unload: Literal["auto", "stop", "sleep"] = "auto"
