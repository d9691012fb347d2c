"""The settings that the launcher passes to its child processes, in a file of mode 0600.

The children read neither the configuration file nor settings in the environment. So all of them
have the same configuration, and no command line or environment contains a secret.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from vgate.config.schema import Config, Section
from vgate.config.topology import EngineSpec

_FILE = "runtime.json"


class Runtime(Section, frozen=True):
    """The settings of one running instance.

    Attributes:
        config: The checked configuration.
        backend: Name of the engine backend.
        run_dir: Directory of the sockets, mode 0700.
        engines: The engines. An engine's number is its index in this list.
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
        """Return the configuration for an engine, with the model that it runs as `model`."""
        name = self.engines[number].model
        model = next(model for model in self.config.models if model.name == name)
        return msgspec.structs.replace(self.config, model=model)

    def engines_of(self, model: str) -> dict[int, EngineSpec]:
        """Return the engines of a model by their numbers."""
        return {n: spec for n, spec in enumerate(self.engines) if spec.model == model}

    @property
    def limits_dir(self) -> str:
        """Directory of the rate limits' shared state."""
        return f"{self.run_dir}/limits"

    @property
    def kept_keys(self) -> str:
        """File in which frontends keep the last valid API keys."""
        return f"{self.run_dir}/kept-keys/keys.jsonl"

    @property
    def model_files_dir(self) -> str:
        """Directory of the model files that frontends have read from engines."""
        return f"{self.run_dir}/model-files"

    @property
    def metrics_dir(self) -> str:
        """Directory of the frontends' metrics."""
        return f"{self.run_dir}/metrics"

    @property
    def publish_endpoint(self) -> str:
        """Endpoint where frontends publish to each other, through the launcher."""
        return f"ipc://{self.run_dir}/publish.sock"

    @property
    def subscribe_endpoint(self) -> str:
        """Endpoint where frontends receive what others published."""
        return f"ipc://{self.run_dir}/subscribe.sock"

    @property
    def control_endpoint(self) -> str:
        """Endpoint where the launcher listens for its children."""
        return f"ipc://{self.run_dir}/control.sock"

    def write(self) -> None:
        """Write the file atomically; only this user can read it."""
        path = Path(self.run_dir, _FILE)
        draft = path.with_suffix(".draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        draft.replace(path)

    @classmethod
    def read(cls, run_dir: str) -> Runtime:
        """Read the file that the launcher wrote."""
        return msgspec.json.decode(Path(run_dir, _FILE).read_bytes(), type=cls)
