"""The memory of the GPUs that the engine runs on, as the driver tells it."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from vgate.fit.gpu import CUDA_BYTES
from vgate.log import Log
from vgate.wire.stats import Gpu

# Asking takes the driver some 20 microseconds for each GPU, and heartbeats are more frequent.
_ASK_S = 2.0

# A process that ended gives its memory back within so long, and is waited for while it does.
_SETTLE_S, _LOOK_S, _LEFT_BYTES = 5.0, 0.3, 64 << 20

log = Log("vgate.engine")


class GpuFigures(NamedTuple):
    """A GPU as the driver tells of it, before anything is loaded.

    Attributes:
        desktop: Whether a screen or graphical programs use it, too.
        capability: Its compute capability, such as 8.9; 0 if that isn't known.
    """

    total: int
    free: int
    desktop: bool
    capability: float


def gpu_figures(nvml: Any, numbers: list[int], pause: Callable[[float], Any]) -> list[GpuFigures]:
    """Return the figures of GPUs by their numbers; empty if the driver can't say.

    Args:
        nvml: pynvml.
        numbers: The driver's.
        pause: Waits for so many seconds.
    """
    try:
        nvml.nvmlInit()
        found = [_figures(nvml, number) for number in numbers]
        for _ in range(int(_SETTLE_S / _LOOK_S)):
            # Nobody is waited for where nothing more can come.
            if all(gpu.free >= gpu.total - 2 * CUDA_BYTES for gpu in found):
                break
            pause(_LOOK_S)
            before, found = found, [_figures(nvml, number) for number in numbers]
            if all(
                new.free <= old.free + _LEFT_BYTES for old, new in zip(before, found, strict=True)
            ):
                break
    except (nvml.NVMLError, AttributeError, OSError, ValueError) as error:
        log.warning("the memory of the GPUs is not known", error=error)
        return []
    return found if all(gpu.total > 0 for gpu in found) else []


def _figures(nvml: Any, number: int) -> GpuFigures:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    desktop, capability = False, 0.0
    with suppress(nvml.NVMLError):
        desktop = bool(nvml.nvmlDeviceGetDisplayActive(handle))
    with suppress(nvml.NVMLError):
        desktop = desktop or bool(nvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
    with suppress(nvml.NVMLError):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        capability = major + minor / 10
    return GpuFigures(int(memory.total), int(memory.free), desktop, capability)


class GpuMemory:
    """Asks NVML, through pynvml, for the memory of some GPUs by their numbers.

    Where it fails, as in some virtual machines, it is not asked again.
    """

    def __init__(
        self, nvml: Any, numbers: list[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nvml = nvml
        self._numbers = numbers
        self._clock = clock
        self._asked_at = float("-inf")
        self._gpus: list[Gpu] = []

    def now(self) -> list[Gpu]:
        """Return the memory, at most some seconds old; empty if it isn't known."""
        if self._numbers and (now := self._clock()) - self._asked_at >= _ASK_S:
            self._asked_at = now
            try:
                self._nvml.nvmlInit()  # counts only, after the first time
                self._gpus = [self._ask(number) for number in self._numbers]
            except self._nvml.NVMLError as error:
                self._numbers, self._gpus = [], []
                log.info("the memory of the GPUs is not known", error=error)
        return self._gpus

    def _ask(self, number: int) -> Gpu:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(number)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(number, int(memory.used), int(memory.total))
