"""The run directory: sockets, settings and shared state of one instance, for its user alone."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO, get_args

from vgate.config.runtime import Directory, Endpoint

_MODE = 0o700
_LOCK = "lock"
_SUBDIRECTORIES = get_args(Directory)
_SOCKETS = ("engine-*.sock", *(f"{name}.sock" for name in get_args(Endpoint)))
_FILES = (*_SOCKETS, "runtime.json", "runtime.draft")


class StartError(Exception):
    """The run directory or the port can't be used; the message says why and what to do."""


def default_run_dir(port: int) -> str:
    """Return the directory for an instance on `port`. Socket paths have a limit, so it is short."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return str(Path(runtime, f"vgate-{port}"))
    return str(Path(tempfile.gettempdir(), f"vgate-{os.getuid()}-{port}"))


class RunDir:
    """Makes the directory and locks it against other instances until this process ends.

    Raises:
        StartError: It can't be made, belongs to another user, or is locked.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        try:
            self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            status = self.path.lstat()
        except OSError as error:
            raise StartError(
                f"cannot make the run directory {self.path}: {error.strerror}"
            ) from None
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise StartError(
                f"the run directory {self.path} is not a directory of this user; "
                "set server.run_dir to another"
            )
        self.path.chmod(_MODE)
        self._lock = self._take_lock()
        self._clear()  # a killed instance may have left files
        for name in _SUBDIRECTORIES:
            (self.path / name).mkdir(mode=_MODE)

    def _take_lock(self) -> IO[bytes]:
        try:
            lock = (self.path / _LOCK).open("wb")
        except OSError as error:
            raise StartError(f"cannot open {self.path / _LOCK}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StartError(
                f"another V-Gate instance runs in {self.path}; stop it, or give this one another "
                "server.port or server.run_dir"
            ) from None
        return lock

    def remove(self) -> None:
        """Delete our files, and the directory if it is empty then, and release the lock."""
        self._clear()
        (self.path / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self._lock.close()

    def _clear(self) -> None:
        """Delete only our own files, as the user may have named a directory with others."""
        for pattern in _FILES:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        for name in _SUBDIRECTORIES:
            shutil.rmtree(self.path / name, ignore_errors=True)
