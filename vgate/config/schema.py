"""The configuration's keys, bounds and defaults. ``config.yaml`` describes each key."""

import ipaddress
import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.keys import ConfiguredKey, PositiveInt, RequestLimit
from vgate.log import Level

PositiveFloat = Annotated[float, Meta(gt=0)]
NonEmptyStr = Annotated[str, Meta(min_length=1)]

MIB = 1024 * 1024
# What vLLM's server takes for `max_num_seqs` on most GPUs.
USUAL_MAX_NUM_SEQS = 256


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections."""


class Tls(Section, frozen=True):
    """The certificate of HTTPS; without one, the server speaks HTTP."""

    certificate: NonEmptyStr | None = None
    key: NonEmptyStr | None = None
    client_ca: NonEmptyStr | None = None
    reload: bool = True

    @property
    def enabled(self) -> bool:
        """Whether the server speaks HTTPS."""
        return self != Tls(reload=self.reload)


class Server(Section, frozen=True):
    """Where and how HTTP is served."""

    host: NonEmptyStr = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    run_dir: str | None = None
    http2: bool = False
    state_dir: NonEmptyStr | None = None
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 30
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 8 * MIB
    max_items: Annotated[int, Meta(ge=1024)] = 100_000
    max_memory_bytes: Annotated[int, Meta(ge=MIB)] = 1024 * MIB
    cors_allow_origins: list[NonEmptyStr] | None = None
    allowed_hosts: list[NonEmptyStr] | None = None
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    any_model_name: bool | None = None
    max_choices: Annotated[int, Meta(ge=1, le=1024)] = 128
    stream_keepalive_s: Annotated[float, Meta(ge=0)] = 15
    write_timeout_s: PositiveFloat = 60
    max_unsent_bytes: Annotated[int, Meta(ge=1024)] = 8 * MIB
    replay_s: Annotated[float, Meta(ge=0, le=3600)] = 30
    tls: Tls = Tls()

    @property
    def worker_count(self) -> int:
        """Number of frontends: as configured, or one for every two cores, 1 to 4."""
        return self.workers or max(1, min(4, (os.cpu_count() or 1) // 2))

    @property
    def is_local(self) -> bool:
        """Whether only this machine's programs can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class LoraAdapter(Section, frozen=True):
    """A LoRA adapter in a directory; requests choose it by its name."""

    name: NonEmptyStr
    path: NonEmptyStr


class Model(Section, frozen=True):
    """A model and how vLLM runs it."""

    model_id: NonEmptyStr = "Qwen/Qwen2.5-1.5B-Instruct-AWQ"
    served_model_name: NonEmptyStr | Annotated[list[NonEmptyStr], Meta(min_length=1)] | None = None
    quantization: NonEmptyStr | None = None
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.7
    max_model_len: PositiveInt = 2048
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    distributed_executor_backend: Literal["mp", "ray"] | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    revision: NonEmptyStr | None = None
    trust_remote_code: bool = False
    chat_template: NonEmptyStr | None = None
    generation_config: Literal["auto", "vllm"] = "auto"
    task: Literal["generate", "embed"] = "generate"
    tool_parser: NonEmptyStr = "auto"
    reasoning_parser: Literal["auto", "none", "think"] = "auto"
    allow_request_chat_template: bool = False
    lora_adapters: list[LoraAdapter] = []
    engine_args: dict[str, Any] = {}

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
    def adapter_names(self) -> list[str]:
        """Names of the model's LoRA adapters."""
        return [adapter.name for adapter in self.lora_adapters]


class AdditionalModel(Model, frozen=True, kw_only=True):
    """Another model, in its own engine process."""

    model_id: NonEmptyStr
    task: Literal["generate", "embed"]


class Batch(Section, frozen=True):
    """How the scheduler fills the batch."""

    max_num_seqs: PositiveInt | Literal["auto"] = "auto"
    max_batch_size: PositiveInt = 8
    max_wait_time_ms: Annotated[float, Meta(ge=0, le=10_000)] = 50
    max_queue_size: PositiveInt = 1024
    target_itl_ms: PositiveFloat | Literal["auto"] | None = "auto"

    @property
    def sequences(self) -> int:
        """Most sequences at once, where only the engine knows what is chosen for `auto`."""
        return USUAL_MAX_NUM_SEQS if self.max_num_seqs == "auto" else self.max_num_seqs


class Timeouts(Section, frozen=True):
    """How long a request may take."""

    request_s: PositiveFloat = 600
    queue_s: PositiveFloat = 120


class Supervision(Section, frozen=True):
    """When a process counts as hung or broken, and what follows."""

    load_timeout_s: PositiveFloat = 1800
    hang_timeout_s: PositiveFloat = 120
    max_restarts: Annotated[int, Meta(ge=0)] = 5
    restart_window_s: PositiveFloat = 300
    resume_requests: bool = True
    hold_requests_s: Annotated[float, Meta(ge=0)] = 60


class Cache(Section, frozen=True):
    """The result cache."""

    enabled: bool = True
    maxsize: Annotated[int, Meta(ge=0)] = 1000
    max_bytes: Annotated[int, Meta(ge=0)] = 64 * MIB
    ttl_s: PositiveFloat = 3600
    scope: Literal["all", "deterministic"] = "all"
    isolate_keys: bool = True


class Responses(Section, frozen=True):
    """The stored responses of the Responses API."""

    store: bool = True
    file: NonEmptyStr | None = None
    max_entries_per_key: Annotated[int, Meta(ge=1)] = 10_000
    max_bytes: Annotated[int, Meta(ge=0)] = 256 * MIB
    ttl_s: PositiveFloat = 30 * 24 * 3600


class Logging(Section, frozen=True):
    """What is logged, and in which format."""

    level: Level = "info"
    json_format: bool = False


class RateLimiting(Section, frozen=True):
    """The limits of keys that don't have their own."""

    enabled: bool = True
    default_limit: RequestLimit = 60
    window_seconds: PositiveFloat = 60
    default_tokens_per_minute: PositiveInt | None = None
    default_concurrent: PositiveInt | None = None


class Security(Section, frozen=True):
    """Who may use the server."""

    enabled: bool = False
    api_keys: list[ConfiguredKey] = []
    key_file: NonEmptyStr | None = None
    rate_limiting: RateLimiting = RateLimiting()
    exempt_paths: list[str] = msgspec.field(
        default_factory=lambda: ["/", "/health", "/ready", "/metrics"]
    )


class DryRun(Section, frozen=True):
    """How the dry-run engine simulates a GPU."""

    step_ms: Annotated[float, Meta(ge=0, le=60_000)] = 10
    prefill_tokens_per_s: PositiveFloat = 20_000
    kv_cache_tokens: PositiveInt = 65_536
    tokens_per_step: PositiveInt = 1
    script: NonEmptyStr | None = None
    fault: Literal["memory", "crash", "hang"] | None = None
    fault_every: PositiveInt = 100
    fault_batch: PositiveInt = 1


class Config(Section, frozen=True):
    """The whole configuration."""

    version: str | float = "1.0"
    server: Server = Server()
    model: Model = Model()
    additional_models: list[AdditionalModel] = []
    batch: Batch = Batch()
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()
    cache: Cache = Cache()
    responses: Responses = Responses()
    logging: Logging = Logging()
    security: Security = Security()
    dry_run: DryRun = DryRun()

    @property
    def models(self) -> list[Model]:
        """All models; each has an engine process."""
        return [self.model, *self.additional_models]
