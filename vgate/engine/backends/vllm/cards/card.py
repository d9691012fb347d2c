"""What is known of the card and the machine before anything is loaded."""

import platform
import re
from contextlib import suppress
from pathlib import Path

import msgspec

_WSL_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?.*microsoft", re.IGNORECASE)


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU and the machine around it.

    Attributes:
        capability: CUDA's compute capability; None on a CPU.
        memory_bytes: The GPU's.
        free_ram_bytes: Main memory that can be had now.
        wsl: The version of WSL2's kernel; None on other systems.
    """

    capability: tuple[int, int] | None = None
    name: str = ""
    memory_bytes: int = 0
    free_ram_bytes: int = 0
    wsl: tuple[int, int, int] | None = None

    def has(self, major: int, minor: int = 0) -> bool:
        """Whether it is a GPU of this compute capability or a later one."""
        return self.capability is not None and self.capability >= (major, minor)

    @property
    def version(self) -> str:
        """The compute capability as NVIDIA writes it."""
        return ".".join(map(str, self.capability or ()))


def wsl_kernel(release: str | None = None) -> tuple[int, int, int] | None:
    """Return the version of WSL2's kernel, None elsewhere, by what uname calls the release."""
    found = _WSL_RELEASE.match(platform.release() if release is None else release)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def free_ram_bytes(root: Path = Path("/")) -> int:
    """Return the main memory that can be had now, within the container's limit; 0 if unknown."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        (available,) = (line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(available.split()[1]) * 1024)
    group = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):  # ValueError: "max"
        limit = int((group / "memory.max").read_text())
        found.append(limit - int((group / "memory.current").read_text()))
    return max(0, min(found, default=0))
