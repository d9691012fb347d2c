"""Notices changes of files that people and other programs write while V-Gate runs."""

import time
from pathlib import Path

# A file that is written in place counts when its writer has paused for so many looks, or seconds.
_LOOKS_IN_PLACE = 3
_REST_S = 0.5


def identity(path: Path) -> tuple[int, int, int] | None:
    """Return what tells the versions of a file apart; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    # The inode shows a replacement that keeps size and time.
    return status.st_ino, status.st_mtime_ns, status.st_size


class FileWatcher:
    """Notices changes of a file, for a loop that looks a few times a second.

    A change counts once the file is at rest, because many programs write a file in place: until
    they are done it is empty or cut, perhaps at the end of a line. A file that another replaced is
    at rest after a second look, one with the same inode after the fourth.

    Make it before the first read of the file, so that no change is missed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._seen = identity(self._path)
        self._looks = 0

    def changed(self) -> bool:
        """Look at the file; return whether it has changed, once after each change.

        What is read then counts only if `moved` is false afterwards.
        """
        before, self._seen = self._seen, identity(self._path)
        self._looks = self._looks + 1 if before == self._seen else 0
        if self._seen == self._read:
            return False
        in_place = (
            self._seen is not None and self._read is not None and self._seen[0] == self._read[0]
        )
        if self._looks < (_LOOKS_IN_PLACE if in_place else 1):
            return False
        self._read = self._seen
        return True

    def moved(self) -> bool:
        """Whether the file has changed since `changed` was last true, or `wait` returned."""
        return identity(self._path) != self._read

    def wait(self) -> None:
        """Block until the file is at rest, for a second at most; before the first read."""
        deadline = time.monotonic() + 2 * _REST_S
        while (found := identity(self._path)) is not None and time.monotonic() < deadline:
            if time.time() - found[1] / 1e9 > _REST_S:
                break
            time.sleep(_REST_S / 10)
        self._read = self._seen = identity(self._path)
