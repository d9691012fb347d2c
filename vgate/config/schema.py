"""The configuration's keys, bounds and defaults. ``config.yaml`` describes each key."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta

from vgate.config.aliases import Alias
from vgate.config.links import EngineLink, RemoteEngine, is_loopback
from vgate.config.model import AdditionalModel, Model, Residency
from vgate.config.section import MIB, NonEmptyStr, PositiveFloat, Section
from vgate.keys import ConfiguredKey, PositiveInt, RequestLimit
from vgate.log import Level

# What vLLM's server takes for `max_num_seqs` on most GPUs.
USUAL_MAX_NUM_SEQS = 256


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
    drain_delay_s: Annotated[float, Meta(ge=0)] = 0
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 30
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 8 * MIB
    max_items: Annotated[int, Meta(ge=1024)] = 100_000
    max_memory_bytes: Annotated[int, Meta(ge=MIB)] = 1024 * MIB
    cors_allow_origins: list[NonEmptyStr] | None = None
    allowed_hosts: list[NonEmptyStr] | None = None
    trusted_proxies: list[NonEmptyStr] = []
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    any_model_name: bool | None = None
    max_choices: Annotated[int, Meta(ge=1, le=1024)] = 128
    stream_keepalive_s: Annotated[float, Meta(ge=0)] = 15
    write_timeout_s: PositiveFloat = 60
    max_unsent_bytes: Annotated[int, Meta(ge=1024)] = 8 * MIB
    replay_s: Annotated[float, Meta(ge=0, le=3600)] = 30
    ui: bool = True
    tls: Tls = Tls()

    @property
    def worker_count(self) -> int:
        """Number of frontends: as configured, or one for every two cores, 1 to 4."""
        return self.workers or max(1, min(4, (os.cpu_count() or 1) // 2))

    @property
    def state_path(self) -> Path:
        """Where what outlives the instance is kept; it may not exist yet."""
        if self.state_dir:
            return Path(self.state_dir)
        if by_systemd := os.environ.get("STATE_DIRECTORY"):
            return Path(by_systemd.partition(":")[0])
        if by_user := os.environ.get("XDG_STATE_HOME"):
            return Path(by_user, "vgate")
        try:
            return Path.home() / ".local/state/vgate"
        except RuntimeError:  # a user without a home, as in some containers
            return Path(tempfile.gettempdir(), f"vgate-state-{os.getuid()}")

    @property
    def keeps_state(self) -> bool:
        """Whether the state directory can be written, or made if it doesn't exist yet."""
        path = self.state_path.absolute()
        # As long as a directory can't be searched, nothing is seen in it.
        there = next(p for p in (path, *path.parents) if os.path.lexists(p))
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK)

    def url_at(self, host: str) -> str:
        """Return the server's URL for those who reach it at a host."""
        scheme = "https" if self.tls.enabled else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def local_url(self) -> str:
        """The server's URL on this machine."""
        return self.url_at({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host))  # noqa: S104

    @property
    def log_path(self) -> Path:
        """The log of an instance that runs on a terminal."""
        return self.state_path / "logs" / f"vgate-{self.port}.log"

    @property
    def is_local(self) -> bool:
        """Whether only this machine's programs can connect."""
        return is_loopback(self.host)


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
    fill_timeout_s: PositiveFloat = 120
    hang_timeout_s: PositiveFloat = 120
    max_restarts: Annotated[int, Meta(ge=0)] = 5
    restart_window_s: PositiveFloat = 300
    retry_replica_s: PositiveFloat = 300
    resume_requests: bool = True
    hold_requests_s: Annotated[float, Meta(ge=0)] = 60


class Routing(Section, frozen=True):
    """Which of several engines of a model runs a request."""

    policy: Literal["prefix_aware", "least_loaded", "round_robin"] = "prefix_aware"
    max_prefill_wait_s: PositiveFloat = 0.5


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


class Tracing(Section, frozen=True):
    """Traces of requests, sent by OpenTelemetry; without an endpoint there are none."""

    endpoint: Annotated[str, Meta(pattern=r"^https?://[^/\s]+\S*$")] | None = None
    protocol: Literal["http", "grpc"] | None = None
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] | None = None
    service_name: NonEmptyStr | None = None

    @property
    def enabled(self) -> bool:
        """Whether requests are traced: an endpoint is set here or in OpenTelemetry's variables."""
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return self.endpoint is not None or any(map(os.environ.get, names))


class Metrics(Section, frozen=True):
    """What Prometheus gets."""

    per_key: bool = False
    vllm_names: bool = True


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
        default_factory=lambda: ["/", "/health", "/ready", "/ping", "/load", "/metrics"]
    )


class State(Section, frozen=True):
    """A Valkey or Redis server, through which gateways share limits, budgets and answers."""

    url: Annotated[str, Meta(pattern=r"^((valkey|redis)s?|unix)://\S+$")] | None = None
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] = "vgate"
    ca: NonEmptyStr | None = None
    timeout_ms: Annotated[float, Meta(gt=0, le=5000)] = 100
    on_failure: Literal["local", "refuse"] = "local"
    lease_s: Annotated[float, Meta(ge=1, le=300)] = 10
    cache: bool = True
    cache_timeout_ms: Annotated[float, Meta(gt=0, le=1000)] = 5
    cache_entry_bytes: Annotated[int, Meta(ge=1024, le=64 * MIB)] = 256 * 1024


class DryRun(Section, frozen=True):
    """How the dry-run engine simulates a GPU."""

    step_ms: Annotated[float, Meta(ge=0, le=60_000)] = 10
    prefill_tokens_per_s: PositiveFloat = 20_000
    kv_cache_tokens: PositiveInt = 65_536
    prefix_cache: bool = True
    tokens_per_step: PositiveInt = 1
    script: NonEmptyStr | None = None
    fault: Literal["memory", "crash", "hang", "load"] | None = None
    fault_every: PositiveInt = 100
    fault_batch: PositiveInt = 1
    fault_tokens: PositiveInt = 1
    fault_replica: Annotated[int, Meta(ge=0)] | None = None


class Config(Section, frozen=True):
    """The whole configuration."""

    version: str | float = "1.0"
    server: Server = Server()
    model: Model = Model()
    additional_models: list[AdditionalModel] = []
    models: list[AdditionalModel] = []
    memory_groups: list[Annotated[list[NonEmptyStr], Meta(min_length=1)]] = []
    residency: Residency = Residency()
    aliases: dict[NonEmptyStr, Alias] = {}
    engines: list[RemoteEngine] = []
    engine_link: EngineLink = EngineLink()
    batch: Batch = Batch()
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()
    routing: Routing = Routing()
    cache: Cache = Cache()
    responses: Responses = Responses()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()
    security: Security = Security()
    state: State = State()
    dry_run: DryRun = DryRun()

    @property
    def all_models(self) -> list[Model]:
        """All models, the main one first; each has an engine process, or several: its replicas."""
        return [self.model, *self.additional_models, *self.models]

    def with_models(self, change: Callable[[Any], Any]) -> Self:
        """Return the configuration with each model replaced by what `change` makes of it."""
        return msgspec.structs.replace(
            self,
            model=change(self.model),
            additional_models=[change(model) for model in self.additional_models],
            models=[change(model) for model in self.models],
        )

    @property
    def unloads_models(self) -> bool:
        """Whether models are loaded and unloaded while the server runs."""
        on_demand = any(model.load == "on_demand" for model in self.all_models)
        return on_demand or bool(self.memory_groups or self.residency.memory_bytes)

    @property
    def link_keys(self) -> Path:
        """The directory of the keys for engines on other hosts; it may not exist."""
        return Path(self.engine_link.keys or self.server.state_path / "link-keys")
