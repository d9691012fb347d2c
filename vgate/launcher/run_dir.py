"""The run directory: sockets and runtime settings of one instance, for its user alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

_MODE = 0o700
_LOCK = "lock"


class RunDirError(Exception):
    """The run directory can't be used; the message says why and what to do."""


def default_run_dir(port: int) -> str:
    """Return the directory for an instance on `port`: short, because socket paths are limited."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return str(Path(runtime, f"vgate-{port}"))
    return str(Path(tempfile.gettempdir(), f"vgate-{os.getuid()}-{port}"))


class RunDir:
    """Holds the directory, locked against a second instance; the lock dies with its holder.

    Raises:
        RunDirError: It belongs to another user, or a running instance holds it.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        try:
            self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            status = self.path.lstat()
        except OSError as error:
            message = f"cannot make the run directory {self.path}: {error.strerror}"
            raise RunDirError(message) from None
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            message = (
                f"the run directory {self.path} is not a directory of this user; "
                "set server.run_dir to another"
            )
            raise RunDirError(message)
        self.path.chmod(_MODE)
        self._lock = self._take_lock()
        # What a killed instance left behind.
        for leftover in ("engine.sock", "control.sock", "runtime.json"):
            (self.path / leftover).unlink(missing_ok=True)

    def _take_lock(self) -> IO[bytes]:
        lock = (self.path / _LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            message = (
                f"another V-Gate instance runs in {self.path}; stop it, or give this one another "
                "server.port or server.run_dir"
            )
            raise RunDirError(message) from None
        return lock

    def remove(self) -> None:
        """Delete the directory and give up the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
