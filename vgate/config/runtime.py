"""The settings that the launcher passes to its child processes, in a file of mode 0600.

The children read neither the configuration file nor settings in the environment. So all of them
have the same configuration, and no command line or environment contains a secret.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from vgate.config.schema import Config, NonEmptyStr, Section

# The engine backends that the launcher chooses from; VGATE_BACKEND may name another.
DRY_RUN, VLLM = "dry_run", "vllm"

_FILE = "runtime.json"
# Connections that wait to be accepted, of each frontend.
LISTEN_BACKLOG = 4096
# The highest number of a frontend. While some leave, there are more of them than `server.workers`.
MAX_WORKER = 447
# In the run directory: the state that frontends share.
Directory = Literal["engines", "kept-keys", "limits", "metrics", "model-files", "suspects"]
# What the launcher binds: the control link of its children, and where frontends publish to each
# other and receive what others published.
Endpoint = Literal["control", "publish", "subscribe"]


class EngineSpec(Section, frozen=True, kw_only=True):
    """One engine process. Several engines may run the same model; they are its replicas.

    Attributes:
        model: The first of the model's served names.
        replica: Its number among the engines of the model, from 0.
        address: ZeroMQ endpoint where it listens for frontends.
        supervised: Whether the launcher starts, watches and stops it. Frontends connect to any
            other engine at its address, and the launcher leaves it alone.
        environment: Environment variables that its process gets in addition to the launcher's.
    """

    model: NonEmptyStr
    replica: Annotated[int, Meta(ge=0)] = 0
    address: NonEmptyStr
    supervised: bool = True
    environment: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.model} (replica {self.replica})" if self.replica else self.model


def local_engines(config: Config, run_dir: str) -> list[EngineSpec]:
    """Return one supervised engine for each configured model, on this machine."""
    return [
        EngineSpec(model=model.name, address=f"ipc://{run_dir}/engine-{number}.sock")
        for number, model in enumerate(config.models)
    ]


class Runtime(Section, frozen=True):
    """The settings of one running instance.

    Attributes:
        backend: Name of the engine backend.
        run_dir: Directory of the instance's sockets and shared state.
        engines: The topology. An engine's number is its index in this list.
        started: Unix time at which the instance started, in seconds.
    """

    config: Config
    backend: str
    run_dir: str
    engines: list[EngineSpec]
    started: float = 0.0

    def engine_name(self, number: int) -> str:
        """Return the name of an engine's process, for logs."""
        return f"engine-{number}" if len(self.engines) > 1 else "engine"

    def engine_config(self, number: int) -> Config:
        """Return the configuration of an engine: its `model` is the one that the engine runs."""
        name = self.engines[number].model
        model = next(model for model in self.config.models if model.name == name)
        return msgspec.structs.replace(self.config, model=model)

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
