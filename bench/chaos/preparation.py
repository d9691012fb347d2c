"""What an instance needs from its start on, for its disk to fill up and its clock to jump."""

import importlib.util
import subprocess
import tempfile
from pathlib import Path

_DISK_MIB = 16
# How often processes look at the clock's file, in seconds.
CLOCK_S = 1


def mount(path: Path) -> None:
    """Mount a small file system at a path that exists.

    Raises:
        OSError: This user can't.
    """
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise OSError(made.stderr.strip())


def unmount(path: Path) -> None:
    """Undo `mount`."""
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def no_disk_because() -> str | None:
    """Return why no small disk can be mounted here; None if it can."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            mount(Path(directory))
        except OSError as error:
            return f"this user can't mount a tmpfs: {error}"
        unmount(Path(directory))
    return None


def no_clock_because() -> str | None:
    """Return why the clock can't be changed here; None if it can."""
    return None if _faketime() else "it needs `pip install libfaketime`"


def clock(file: Path) -> dict[str, str]:
    """Return the environment in which a process's wall clock is off by what a file says."""
    file.write_text("+0")
    return {
        "LD_PRELOAD": str(_faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": str(CLOCK_S),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def _faketime() -> Path | None:
    # PyPI's package; with the library of Debian 12, time.sleep fails in Python.
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.rglob("libfaketime.so.1"), None)
