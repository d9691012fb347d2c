"""What the launcher hands to the processes it starts, through a file only its user can read.

The children never read the environment or YAML themselves, so all of them run on the same
configuration, and no secret is in a command line or in the environment of a process.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from vgate.config.schema import Config, Section

_FILE = "runtime.json"


class Runtime(Section, frozen=True):
    """The settings of one running instance.

    Attributes:
        config: The checked configuration.
        backend: Name of the engine backend.
        run_dir: Directory of the sockets, mode 0700.
        started: Unix time of the instance's start.
    """

    config: Config
    backend: str
    run_dir: str
    started: float = 0.0

    def engine_endpoint(self, engine: int) -> str:
        """Where an engine listens for frontends; engines are numbered as `config.models`."""
        return f"ipc://{self.run_dir}/engine-{engine}.sock"

    def engine_config(self, engine: int) -> Config:
        """Return the configuration as one engine sees it, with its own model as `model`."""
        return msgspec.structs.replace(self.config, model=self.config.models[engine])

    @property
    def limits_dir(self) -> str:
        """Where the rate limits' shared state is."""
        return f"{self.run_dir}/limits"

    @property
    def kept_keys(self) -> str:
        """Where frontends keep the last keys that could be used."""
        return f"{self.run_dir}/kept-keys/keys.jsonl"

    @property
    def metrics_dir(self) -> str:
        """Where the frontends' metrics are."""
        return f"{self.run_dir}/metrics"

    @property
    def publish_endpoint(self) -> str:
        """Where frontends publish to each other, by way of the launcher."""
        return f"ipc://{self.run_dir}/publish.sock"

    @property
    def subscribe_endpoint(self) -> str:
        """Where frontends hear what was published."""
        return f"ipc://{self.run_dir}/subscribe.sock"

    @property
    def control_endpoint(self) -> str:
        """Where the launcher listens for its children."""
        return f"ipc://{self.run_dir}/control.sock"

    def write(self) -> None:
        """Write the file, readable by this user alone, all of it or nothing."""
        path = Path(self.run_dir, _FILE)
        draft = path.with_suffix(".draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        draft.replace(path)

    @classmethod
    def read(cls, run_dir: str) -> Runtime:
        """Read what the launcher wrote."""
        return msgspec.json.decode(Path(run_dir, _FILE).read_bytes(), type=cls)
