"""What an engine that was killed leaves on the machine: temporary files and shared memory.

Each engine process has a directory of its own for temporary files. A link in the run directory
records it, so that it is found even after the launcher was killed too.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

_PREFIX = "vgate-"
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - read only from the maps of our own processes


def link_of(run_dir: str, name: str) -> Path:
    """Return the link to an engine's temporary directory."""
    return Path(run_dir, f"{name}.tmp")


def make_temporary(link: Path) -> str | None:
    """Make a temporary directory and record it; None if that is not possible."""
    remove_temporary(link)
    try:
        made = tempfile.mkdtemp(prefix=_PREFIX)
    except OSError:
        return None
    try:
        link.symlink_to(made)
    except OSError:
        Path(made).rmdir()
        return None
    return made


def remove_temporary(link: Path) -> None:
    """Remove a recorded directory, if it is one of ours, and its record."""
    with contextlib.suppress(OSError):
        target = Path(os.readlink(link))  # noqa: PTH115 - resolves nothing further
        link.unlink()
        status = target.lstat()
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if ours and target.name.startswith(_PREFIX):
            shutil.rmtree(target, ignore_errors=True)


def shared_memory_of(session: int, since: float) -> set[Path]:
    """Return the shared memory that the processes of a session map and that was made since then.

    The workers that Ray starts have groups of their own. Nothing where there is no /proc.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(process.name)) != session:
                continue
            maps = (process / "maps").read_text(errors="replace")
            found |= {
                Path(line[line.index(_SHARED_MEMORY) :])
                for line in maps.splitlines()
                if _SHARED_MEMORY in line and not line.endswith(" (deleted)")
            }
    return {path for path in found if _is_ours(path, since)}


def remove_shared_memory(paths: set[Path]) -> None:
    """Remove shared memory that nobody uses any more."""
    while paths:
        with contextlib.suppress(OSError):
            paths.pop().unlink()


def _is_ours(path: Path, since: float) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return (
        stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and status.st_ctime >= since
    )
