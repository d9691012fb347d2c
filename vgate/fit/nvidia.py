"""The NVIDIA GPUs of this machine, as nvidia-smi tells of them."""

import shutil
import subprocess

from vgate.fit.gpu import MIB, Card

_FIELDS = "name,memory.total,memory.free,compute_cap"
_TIMEOUT_S = 30.0
# Compute capabilities: bfloat16 came with Ampere, 8 bit floats with Ada.
_BFLOAT16_SINCE, _FP8_SINCE = 8.0, 8.9


def nvidia_smi(*arguments: str, path: str | None = None) -> str:
    """Return what nvidia-smi, on the `path`, prints; "" where it isn't there or doesn't answer."""
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return ""
    try:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def cards(utilization: float) -> list[Card]:
    """Return the machine's GPUs; none where nvidia-smi isn't there or doesn't answer."""
    answer = nvidia_smi(f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")
    return [card for line in answer.splitlines() if (card := _card(line, utilization))]


def _card(line: str, utilization: float) -> Card | None:
    try:
        name, total, free, capability = (part.strip() for part in line.rsplit(",", 3))
        version = float(capability)
        return Card(
            total=int(total) * MIB,
            utilization=utilization,
            fp8=version >= _FP8_SINCE,
            bfloat16=version >= _BFLOAT16_SINCE,
            name=name,
            free=int(free) * MIB,
        )
    except ValueError:  # "[N/A]", as on machines that share their memory with the GPU
        return None
