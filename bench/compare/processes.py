"""The processes of a contender by kind, read from /proc."""

from collections.abc import Sequence
from pathlib import Path

from bench.compare.results import ProcessMemory
from bench.load.processes import read_process

_PROC = Path("/proc")
_PPID = 1  # counted from the end of the command's name, as in bench.load.processes
OTHER = "other"

# A text in a process's command line or name, and the kind that it means; the first match counts.
Kinds = tuple[tuple[str, str], ...]


def descendants(root: int, proc: Path = _PROC) -> list[int]:
    """Return a process and all that descend from it, the root first."""
    children: dict[int, list[int]] = {}
    for directory in proc.iterdir():
        if directory.name.isdecimal() and (parent := _parent(directory)) is not None:
            children.setdefault(parent, []).append(int(directory.name))
    found = [root]
    for pid in found:
        found += sorted(children.get(pid, ()))
    return found


def _parent(directory: Path) -> int | None:
    try:
        stat = (directory / "stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[_PPID])


def kind_of(pid: int, kinds: Kinds, proc: Path = _PROC) -> str | None:
    """Return a process's kind, or None if it has gone."""
    try:
        command = (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
        name = (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return None
    text = f"{command} {name}"
    return next((kind for part, kind in kinds if part in text), OTHER)


def by_kind(root: int, kinds: Kinds) -> list[tuple[str, int]]:
    """Return the kind and pid of a contender's processes."""
    found = [(kind_of(pid, kinds), pid) for pid in descendants(root)]
    return [(kind, pid) for kind, pid in found if kind is not None]


def memory(processes: Sequence[tuple[str, int]]) -> list[ProcessMemory]:
    """Return what the processes hold, summed by kind."""
    table = []
    for kind in dict.fromkeys(kind for kind, _ in processes):
        readings = [read_process(pid) for other, pid in processes if other == kind]
        alive = [reading for reading in readings if reading is not None]
        table.append(
            ProcessMemory(
                kind=kind,
                processes=len(alive),
                rss_mib=round(sum(one.rss_mib for one in alive), 1),
                peak_rss_mib=round(sum(one.peak_rss_mib for one in alive), 1),
            )
        )
    return table


def cpu_s(processes: Sequence[tuple[str, int]]) -> float:
    """Return the CPU time that the processes have used."""
    readings = (read_process(pid) for _, pid in processes)
    return sum(reading.cpu_s for reading in readings if reading is not None)
