"""The processes of this instance, as the kernel lists them, and their memory."""

import os
from contextlib import suppress
from pathlib import Path

from vgate.config import Runtime

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def processes(runtime: Runtime) -> dict[str, int]:
    """Return the ids of an instance's frontends and engines by their names in the log.

    They are the launcher's children, as this process is. Empty where the kernel doesn't tell.
    """
    found = {}
    for pid in _children(os.getppid()):
        with suppress(OSError, ValueError):
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            if words[words.index("--run-dir") + 1] != runtime.run_dir:
                continue
            if "vgate.frontend" in words:
                found[f"frontend-{words[words.index('--worker') + 1]}"] = pid
            elif "vgate.engine" in words:
                found[runtime.engine_name(int(words[words.index("--engine") + 1]))] = pid
    return found


def worker_names(runtime: Runtime) -> set[str]:
    """Return the names of the frontends; where the kernel doesn't tell, of those configured."""
    names = {name for name in processes(runtime) if name.startswith("frontend-")}
    count = runtime.config.server.worker_count
    return names or {f"frontend-{number}" for number in range(1, count + 1)}


def resident_bytes(runtime: Runtime) -> dict[str, int]:
    """Return the memory of each process by its name, an engine's with that of its own processes."""
    running = processes(runtime)
    found = {name: _with_descendants(pid) for name, pid in running.items()}
    if found:
        found["launcher"] = _resident(os.getppid())
    return found


def _with_descendants(pid: int) -> int:
    return _resident(pid) + sum(map(_with_descendants, _children(pid)))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0  # it has just ended


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for of_thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, of_thread.read_text().split())
    return found
