"""The GPUs of this machine, found without any library."""

import os
import re
from collections.abc import Mapping

from vgate.config import Runtime
from vgate.config.runtime import DRY_RUN
from vgate.fit.nvidia import nvidia_smi

# As `nvidia-smi -L` lists GPUs, and below them their parts, if they are divided (MIG).
_GPU = re.compile(r"GPU (\d+): ")
_PART = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)\s]+)\)")


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that processes of this environment may use, as CUDA_VISIBLE_DEVICES has them.

    They are numbers, or UUIDs; none where there is no NVIDIA GPU.
    """
    if (chosen := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in chosen.split(",")]
        # CUDA takes those before the first invalid one.
        end = next((n for n, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    return listed_gpus(nvidia_smi("-L", path=environ.get("PATH")))


def listed_gpus(text: str) -> list[str]:
    """Return the GPUs of `nvidia-smi -L`; of a divided one, its parts."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if gpu := _GPU.match(line):
            found[gpu[1]] = []
        elif found and (part := _PART.match(line)):
            found[list(found)[-1]].append(part[1])
    return [device for gpu, parts in found.items() for device in parts or [gpu]]


def sharing(runtime: Runtime) -> set[int]:
    """Return the numbers of the engines that see all GPUs, if there is one, and share them."""
    found = {
        number
        for number, spec in enumerate(runtime.engines)
        if spec.supervised
        and not spec.environment.get("CUDA_VISIBLE_DEVICES")
        # Ray finds a place for each.
        and runtime.engine_config(number).model.distributed_executor_backend != "ray"
    }
    share = len(found) > 1 and runtime.backend != DRY_RUN and visible_gpus(os.environ)
    return found if share else set()
