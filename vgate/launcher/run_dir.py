"""The run directory: sockets, settings and shared state of one instance, for its user alone."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import IO, get_args

from vgate.config.runtime import LOCK, Directory, Endpoint, is_running
from vgate.launcher.leftovers import remove_temporary

_MODE = 0o700
_SUBDIRECTORIES = get_args(Directory)
_SOCKETS = ("engine-*.sock", *(f"{name}.sock" for name in get_args(Endpoint)))
_TEMPORARY = "engine-*.tmp"
_LONGEST = max((f"{name}.sock" for name in ("engine-00", *get_args(Endpoint))), key=len)
_MAX_SOCKET_PATH_BYTES = 107  # sizeof(sockaddr_un.sun_path) - 1, unix(7)
_FILES = (*_SOCKETS, "runtime.json", "runtime.draft", "left-[0-9]*")


class StartError(Exception):
    """The run directory or the port can't be used; the message says why and what to do."""


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
            raise _cannot("make", self.path, self.path, error) from None
        _check_owner(self.path, status)
        try:
            self.path.chmod(_MODE)
        except OSError as error:
            raise _cannot("close to others", self.path, self.path, error) from None
        used_before = (self.path / LOCK).exists()
        self._lock = self._take_lock()
        try:
            _check_contents(self.path, used_before=used_before)
            self._clear()  # a killed instance may have left files
            for name in _SUBDIRECTORIES:
                (self.path / name).mkdir(mode=_MODE)
        except OSError as error:
            self._lock.close()
            where = Path(error.filename or self.path)
            raise _cannot("prepare", self.path, where, error) from None
        except StartError:
            self._lock.close()
            raise

    def _take_lock(self) -> IO[bytes]:
        path = self.path / LOCK
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
                "server.port (--listen for an engine alone) or server.run_dir"
            ) from None
        except OSError as error:  # as on some network file systems
            lock.close()
            raise _cannot("lock", self.path, path, error) from None
        return lock

    def remove(self) -> None:
        """Delete our files, and the directory if it is empty then, and release the lock."""
        with contextlib.suppress(OSError, StartError):  # nobody can do anything about it now
            self._clear()
            (self.path / LOCK).unlink(missing_ok=True)
            self.path.rmdir()
        self._lock.close()

    def _clear(self) -> None:
        """Delete only our own files, as the user may have named a directory with others."""
        for path in self.path.glob(_TEMPORARY):
            remove_temporary(path)
        for path in _own_files(self.path):
            path.unlink(missing_ok=True)
        for name in _SUBDIRECTORIES:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)


def check_run_dir(path: str) -> bool:
    """Return whether an instance runs in a directory. Nothing is made or changed.

    Raises:
        StartError: None could run there.
    """
    directory = Path(path).absolute()
    if len(os.fsencode(directory / _LONGEST)) > _MAX_SOCKET_PATH_BYTES:
        raise StartError(
            f"the run directory {directory} makes the paths of sockets longer than "
            f"{_MAX_SOCKET_PATH_BYTES} bytes; set server.run_dir to a shorter one"
        )
    try:
        found = next(p for p in (directory, *directory.parents) if os.path.lexists(p))
        status = found.stat() if found != directory else found.lstat()
        if found == directory:
            _check_owner(directory, status)
        elif not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(found, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _cannot("make", directory, directory, error) from None
    if is_running(directory):
        return True
    _check_contents(directory, used_before=(directory / LOCK).exists())
    return False


def _cannot(what: str, run_dir: Path, path: Path, error: OSError) -> StartError:
    it = "the run directory" if path == run_dir else "in the run directory"
    return StartError(f"cannot {what} {it} {path}: {error.strerror}; set server.run_dir to another")


def _check_owner(run_dir: Path, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise StartError(
            f"the run directory {run_dir} is not a directory of this user; "
            "set server.run_dir to another"
        )


def _own_files(run_dir: Path) -> list[Path]:
    return [path for pattern in _FILES for path in run_dir.glob(pattern)]


def _check_contents(run_dir: Path, *, used_before: bool) -> None:
    """Raise `StartError` if the place of something of ours is taken by something else."""
    for path in _own_files(run_dir):
        if path.is_dir() and not path.is_symlink():
            raise StartError(f"{path} is a directory that V-Gate did not make; move it away")
    for name in _SUBDIRECTORIES:
        path = run_dir / name
        if path.is_symlink() or (path.exists() and not (used_before and path.is_dir())):
            raise StartError(
                f"V-Gate did not make {path}; move it away, or set server.run_dir to another"
            )
