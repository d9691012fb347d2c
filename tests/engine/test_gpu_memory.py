"""GPU memory, asked of a driver that isn't there."""

from types import SimpleNamespace

import pytest

from vgate.engine.backends.gpus import GpuMemory
from vgate.wire.stats import Gpu


class Nvml:
    NVMLError = OSError
    asked = 0
    fails = False

    def nvmlInit(self):  # noqa: N802 - NVML's names
        if self.fails:
            raise OSError("no driver")

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        self.asked += 1
        return SimpleNamespace(used=100 * handle + self.asked, total=1000)


def test_each_gpu_is_asked_every_other_second():
    nvml, now = Nvml(), [0.0]
    memory = GpuMemory(nvml, [1, 3], lambda: now[0])
    assert memory.now() == memory.now() == [Gpu(1, 101, 1000), Gpu(3, 302, 1000)]
    now[0] = 2.0
    assert memory.now() == [Gpu(1, 103, 1000), Gpu(3, 304, 1000)]


def test_a_driver_that_fails_is_not_asked_again():
    nvml, now = Nvml(), [0.0]
    memory = GpuMemory(nvml, [0], lambda: now[0])
    assert memory.now()
    nvml.fails, now[0] = True, 5.0
    assert memory.now() == []
    nvml.fails, now[0] = False, 10.0
    assert memory.now() == []
    assert GpuMemory(None, []).now() == []


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_a_gpu_that_vllm_can_not_name_is_left_out(monkeypatch):
    from vgate.engine.backends.vllm import setup

    def physical(number):
        return [4, 6][number]

    platform = SimpleNamespace(is_cuda=lambda: True, device_id_to_physical_device_id=physical)
    monkeypatch.setattr(setup, "current_platform", platform)
    monkeypatch.setattr(setup, "import_pynvml", Nvml)
    assert setup.gpu_memory(3).now() == [Gpu(4, 401, 1000), Gpu(6, 602, 1000)]
    platform.is_cuda = lambda: False
    assert setup.gpu_memory(3).now() == []
