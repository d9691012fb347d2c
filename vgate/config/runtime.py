"""The settings that the launcher passes to its child processes, in a file of mode 0600.

The children read neither the configuration file nor settings in the environment. So all of them
have the same configuration, and no command line or environment contains a secret.
"""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from vgate.config.devices import Devices, place
from vgate.config.schema import Config
from vgate.config.section import NonEmptyStr, Section

# The engine backends that the launcher chooses from; VGATE_BACKEND may name another.
DRY_RUN, VLLM = "dry_run", "vllm"

_FILE = "runtime.json"
LOCK = "lock"
# vLLM looks for free ports from here on, so that replicas that start at once find different ones.
_FIRST_PORT, _PORTS_EACH = 21_000, 100
# Connections that wait to be accepted, of each frontend.
LISTEN_BACKLOG = 4096
# Connections that a frontend takes if enough files may be open. Work is limited by the engine's
# queue, which refuses clearly, so this must not be reached first.
MOST_CONNECTIONS = 65_536
# Those beyond that are told so, of which a frontend has so many open.
SHED_AT_ONCE = 8
# The highest number of a frontend. While some leave, there are more of them than `server.workers`.
MAX_WORKER = 447
# Which programs an instance has: engines and frontends; only engines, for frontends on other hosts;
# or only frontends, of engines on other hosts.
Role = Literal["serve", "engine", "frontend"]
# In the run directory: the state that frontends share.
Directory = Literal[
    "budgets", "engines", "kept-keys", "limits", "metrics", "model-files", "suspects"
]
# What the launcher binds: the control link of its children, and where frontends publish to each
# other and receive what others published.
Endpoint = Literal["control", "publish", "subscribe"]


def default_run_dir(port: int) -> str:
    """Return the directory for an instance on `port`. Socket paths have a limit, so it is short."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return str(Path(runtime, f"vgate-{port}"))
    return str(Path(tempfile.gettempdir(), f"vgate-{os.getuid()}-{port}"))


def is_running(run_dir: Path) -> bool:
    """Whether an instance has locked the run directory. Nothing is made or changed."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(run_dir / LOCK, flags)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class EngineSpec(Section, frozen=True, kw_only=True):
    """One engine process. Several engines may run the same model; they are its replicas.

    Attributes:
        model: The first of the model's served names.
        replica: Its number among the engines of the model, from 0.
        address: ZeroMQ endpoint where it listens for frontends.
        supervised: Whether the launcher starts, watches and stops it. Frontends connect to any
            other engine at its address, and the launcher leaves it alone.
        environment: Environment variables that its process gets in addition to the launcher's.
        public_key: Of a tcp endpoint on another host; "" for the one in `engine_link.keys`.
    """

    model: NonEmptyStr
    replica: Annotated[int, Meta(ge=0)] = 0
    address: NonEmptyStr
    supervised: bool = True
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    public_key: str = ""

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.model} (replica {self.replica})" if self.replica else self.model


def local_engines(config: Config, run_dir: str, gpus: Sequence[str] = ()) -> list[EngineSpec]:
    """Return an engine for each replica of each model; raise ConfigError if GPUs are too few."""
    engines: list[EngineSpec] = []
    for model, replicas in zip(config.all_models, place(config, gpus), strict=True):
        for replica, devices in enumerate(replicas):
            number = len(engines)
            environment = _environment(number, devices, alone=len(replicas) == 1)
            address = f"ipc://{run_dir}/engine-{number}.sock"
            engines.append(
                EngineSpec(
                    model=model.name, replica=replica, address=address, environment=environment
                )
            )
    return engines


def _environment(number: int, devices: Devices, *, alone: bool) -> dict[str, str]:
    found = {}
    if devices:
        found = {"CUDA_VISIBLE_DEVICES": ",".join(devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if not alone:
        first = os.environ.get("VLLM_PORT", "")
        first_port = int(first) if first.isdigit() else _FIRST_PORT
        found["VLLM_PORT"] = str(first_port + _PORTS_EACH * number)
    return found


class Runtime(Section, frozen=True):
    """The settings of one running instance.

    Attributes:
        run_dir: Directory of the instance's sockets and shared state.
        engines: The topology. An engine's number is its index in this list.
        started: Unix time at which the instance started, in seconds.
        most_connections: How many each frontend takes.
        log_file: Where its log is; empty if that goes to the launcher's standard error.
    """

    config: Config
    backend: str
    run_dir: str
    engines: list[EngineSpec]
    started: float = 0.0
    log_file: str = ""
    most_connections: int = MOST_CONNECTIONS
    role: Role = "serve"

    def engine_name(self, number: int) -> str:
        """Return the name of an engine's process, for logs."""
        return f"engine-{number}" if len(self.engines) > 1 else "engine"

    def engine_config(self, number: int) -> Config:
        """Return the configuration of an engine: its `model` is the one that the engine runs."""
        spec, dry_run = self.engines[number], self.config.dry_run
        model = next(model for model in self.config.all_models if model.name == spec.model)
        if dry_run.fault_replica not in (None, spec.replica):
            dry_run = msgspec.structs.replace(dry_run, fault=None)
        return msgspec.structs.replace(self.config, model=model, dry_run=dry_run)

    def engines_of(self, model: str) -> dict[int, EngineSpec]:
        """Return the engines of a model by their numbers."""
        return {n: spec for n, spec in enumerate(self.engines) if spec.model == model}

    def directory(self, name: Directory) -> Path:
        """Return a directory of shared state."""
        return Path(self.run_dir, name)

    def endpoint(self, name: Endpoint) -> str:
        """Return a ZeroMQ endpoint of the launcher."""
        return f"ipc://{self.run_dir}/{name}.sock"

    def write(self) -> None:
        """Write the file atomically; only this user can read it."""
        path = Path(self.run_dir, _FILE)
        draft = path.with_suffix(".draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        draft.replace(path)

    @classmethod
    def read(cls, run_dir: str) -> Self:
        """Read the file that the launcher wrote."""
        return msgspec.json.decode(Path(run_dir, _FILE).read_bytes(), type=cls)
