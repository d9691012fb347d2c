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
from vgate.launcher.leftovers import remove_temporary

_MODE = 0o700
_LOCK = "lock"
_SUBDIRECTORIES = get_args(Directory)
_SOCKETS = ("engine-*.sock", *(f"{name}.sock" for name in get_args(Endpoint)))
_TEMPORARY = "engine-*.tmp"
_FILES = (*_SOCKETS, "runtime.json", "runtime.draft", "left-[0-9]*")


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
        StartError: It can't be made or written, belongs to another user, holds something in the
            place of our files, or is locked.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        try:
            self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            status = self.path.lstat()
        except OSError as error:
            raise self._cannot("make", self.path, error) from None
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise StartError(
                f"the run directory {self.path} is not a directory of this user; "
                "set server.run_dir to another"
            )
        try:
            self.path.chmod(_MODE)
        except OSError as error:
            raise self._cannot("close to others", self.path, error) from None
        used_before = (self.path / _LOCK).exists()
        self._lock = self._take_lock()
        try:
            self._check_contents(used_before=used_before)
            self._clear()  # a killed instance may have left files
            for name in _SUBDIRECTORIES:
                (self.path / name).mkdir(mode=_MODE)
        except OSError as error:
            self._lock.close()
            raise self._cannot("prepare", Path(error.filename or self.path), error) from None
        except StartError:
            self._lock.close()
            raise

    def _cannot(self, what: str, path: Path, error: OSError) -> StartError:
        it = "the run directory" if path == self.path else "in the run directory"
        return StartError(
            f"cannot {what} {it} {path}: {error.strerror}; set server.run_dir to another"
        )

    def _take_lock(self) -> IO[bytes]:
        path = self.path / _LOCK
        try:
            # A link would have another file made or emptied.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.fdopen(os.open(path, flags, 0o600), "wb")
        except OSError as error:
            if path.is_symlink():
                raise StartError(f"{path} is a symbolic link; remove it") from None
            raise StartError(f"cannot open {path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StartError(
                f"another V-Gate instance runs in {self.path}; stop it, or give this one another "
                "server.port or server.run_dir"
            ) from None
        except OSError as error:  # as on some network file systems
            lock.close()
            raise self._cannot("lock", path, error) from None
        return lock

    def remove(self) -> None:
        """Delete our files, and the directory if it is empty then, and release the lock."""
        with contextlib.suppress(OSError, StartError):  # nobody can do anything about it now
            self._clear()
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()
        self._lock.close()

    def _clear(self) -> None:
        """Delete only our own files, as the user may have named a directory with others."""
        for path in self.path.glob(_TEMPORARY):
            remove_temporary(path)
        for path in self._own_files():
            path.unlink(missing_ok=True)
        for name in _SUBDIRECTORIES:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)

    def _own_files(self) -> list[Path]:
        return [path for pattern in _FILES for path in self.path.glob(pattern)]

    def _check_contents(self, *, used_before: bool) -> None:
        """Raise `StartError` if the place of something of ours is taken by something else."""
        for path in self._own_files():
            if path.is_dir() and not path.is_symlink():
                raise StartError(f"{path} is a directory that V-Gate did not make; move it away")
        for name in _SUBDIRECTORIES:
            path = self.path / name
            if path.is_symlink() or (path.exists() and not (used_before and path.is_dir())):
                raise StartError(
                    f"V-Gate did not make {path}; move it away, or set server.run_dir to another"
                )
