"""How much of a GPU's or the machine's memory a model may take now."""

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from vgate.fit.gpu import CUDA_BYTES, GIB, MIB, USUAL_SHARE

# What a desktop takes more of while it is used: windows, a browser, a film.
DESKTOP_BYTES = 512 * MIB
# Windows moves the memory of programs out of a GPU that is full, and all of them crawl.
WSL_BYTES = 1024 * MIB
# Of the machine's memory, for the frontends and other programs.
_HOST_SHARE = 0.9
# A KV cache for the CPU takes so much of the free memory, if it isn't told what it may take.
_HOST_KV_SHARE = 0.25
_CGROUPS, _PROC_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_VERSION = Path("/proc/version")


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a GPU, or of the machine for a model on the CPU.

    Attributes:
        total, free: In bytes, now.
        kv: The most for its KV cache.
        why: In words, such as "6.9 of 8.0 GiB are free".
    """

    total: int
    free: int
    usable: int
    kv: int
    why: str

    @property
    def share(self) -> float:
        """VLLM's gpu_memory_utilization for it."""
        return _share(self.usable, self.total)

    @property
    def most_share(self) -> float:
        """The highest that vLLM starts with now."""
        return _share(self.most, self.total)

    @property
    def most(self) -> int:
        """What is free once CUDA has what it needs."""
        return max(0, self.free - CUDA_BYTES)


def gpu_room(
    total: int, free: int, *, desktop: bool, wsl: bool, share: float = 1.0, bound: int | None = None
) -> Room:
    """Return what a model may take of a GPU.

    Args:
        total: The GPU's memory, in bytes.
        free: What no other program uses now, in bytes.
        desktop: Whether a screen or graphical programs use it, too.
        wsl: Whether it is shared with Windows.
        share: The largest part that the model may take of what is usually taken.
        bound: `model.memory_bytes`.
    """
    margin = (DESKTOP_BYTES if desktop else 0) + (WSL_BYTES if wsl else 0)
    usual = int(total * USUAL_SHARE * share)
    usable = min(usual, free - CUDA_BYTES - margin)
    why = f"{gib(free)} of {gib(total)} are free"
    if margin:
        whom = "Windows" if wsl else "the desktop"
        why += f", {gib(margin)} of it left to {whom}"
    if bound is not None and bound < usable:
        usable, why = bound, f"{gib(bound)} of {gib(total)} is what it may take"
    usable = max(0, usable)
    return Room(total=total, free=free, usable=usable, kv=usable, why=why)


def host_room(free: int, *, bound: int | None = None, halvings: int = 0) -> Room:
    """Return what a model on the CPU may take of the machine's `free` bytes of memory.

    `bound` is `model.memory_bytes`. The KV cache is halved `halvings` times.
    """
    usable, kv = int(free * _HOST_SHARE), int(free * _HOST_KV_SHARE)
    why = f"{gib(free)} of memory are available"
    if bound is not None and bound < usable:
        usable = kv = bound
        why = f"{gib(bound)} of memory is what it may take"
    return Room(total=free, free=free, usable=usable, kv=kv >> halvings, why=why)


def _share(part: int, total: int) -> float:
    return max(0.001, int(1000 * (part + 1) / total) / 1000)


def is_wsl() -> bool:
    """Whether this is Windows' Linux (WSL2)."""
    with suppress(OSError):
        return "microsoft" in _VERSION.read_text().lower()
    return False


def host_memory() -> int:
    """Return the memory that a program can still get here: of the machine, its group, its limit."""
    found = list(_available())
    return max(0, min(found)) if found else 0


def _available() -> Iterator[int]:
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError):
        group = _PROC_CGROUP.read_text().strip().rpartition(":")[2].lstrip("/")
        path = _CGROUPS / group
        while path.is_relative_to(_CGROUPS):
            yield from _of_group(path)
            path = path.parent
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield limit - pages * resource.getpagesize()


def _of_group(path: Path) -> Iterator[int]:
    """Yield what is left of a control group's limit; files that can be read again don't count."""
    with suppress(OSError, ValueError):
        limit, used = (int((path / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
        yield limit - used + int(stat.get("inactive_file", 0))


def gib(size: float) -> str:
    """Return a size for people."""
    return f"{size / MIB:.0f} MiB" if abs(size) < GIB / 10 else f"{size / GIB:.1f} GiB"
