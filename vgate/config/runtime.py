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
    """

    config: Config
    backend: str
    run_dir: str

    @property
    def engine_endpoint(self) -> str:
        """Where the engine listens for frontends."""
        return f"ipc://{self.run_dir}/engine.sock"

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
