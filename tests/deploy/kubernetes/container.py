"""Starts a container of a pod: its own root, processes and user; run as root by `pods`.

Called with the path of a `Container` as JSON, in new mount, process and network namespaces.
It makes the root as a container runtime does, and becomes the container's command.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# What is taken from this machine in place of an image's files.
_LINKED = ("bin", "lib", "lib64", "sbin")
_DEVICES = ("null", "zero", "full", "random", "urandom")


def mount(*arguments: str) -> None:
    """Mount something."""
    subprocess.run(["mount", *arguments], check=True)


def bind(source: str, target: Path, *, read_only: bool) -> None:
    """Show a file or a directory in another place."""
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, str(target))
    if read_only:
        mount("-o", "remount,bind,ro", str(target))


def make_root(spec: dict[str, Any], root: Path) -> None:
    """Mount all that the container sees below `root`."""
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "root", str(root))
    for name in _LINKED:
        if Path("/", name).exists():
            (root / name).symlink_to(f"usr/{name}")
    (root / "usr").mkdir()
    # The image's files over those of this machine.
    mount("-t", "overlay", "-o", f"lowerdir={spec['image']}/usr:/usr", "overlay", str(root / "usr"))
    bind(f"{spec['image']}/opt/vgate", root / "opt/vgate", read_only=True)
    for path, text in spec["files"].items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for path, source in spec["bound"].items():
        bind(source, root / path.lstrip("/"), read_only=True)
    (root / "proc").mkdir()
    mount("-t", "proc", "proc", str(root / "proc"))
    for name in _DEVICES:
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    (root / "dev/shm").mkdir()
    mount("-t", "tmpfs", "shm", str(root / "dev/shm"))
    for volume in spec["volumes"]:
        target = root / volume["path"].lstrip("/")
        if volume["memory"]:
            target.mkdir(parents=True, exist_ok=True)
            mount("-t", "tmpfs", "-o", "mode=2777,gid=" + volume["group"], "memory", str(target))
        else:
            bind(volume["source"], target, read_only=volume["read_only"])
    if spec["read_only"]:
        mount("-o", "remount,ro", str(root))


def main(path: str) -> None:
    """Become the container."""
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    root = Path(spec["root"])
    make_root(spec, root)
    os.chroot(root)
    os.chdir(spec["directory"])
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


if __name__ == "__main__":
    main(sys.argv[1])
