"""What NVML tells of GPUs before a start, and whom it waits for."""

from types import SimpleNamespace

import pytest

from vgate.engine.backends.gpus import gpu_figures

GIB = 1 << 30


class NVMLError(Exception):
    pass


def fake(free, **others):
    """Return a pynvml whose GPUs have 8 GiB, of which so much is free each time it is asked."""
    left = list(free)

    def memory(_handle):
        value = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(value, Exception):
            raise value
        return SimpleNamespace(total=8 * GIB, free=value)

    def refuse(_handle):
        raise NVMLError("Not Supported")

    return SimpleNamespace(
        **{
            "NVMLError": NVMLError,
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByIndex": int,
            "nvmlDeviceGetMemoryInfo": memory,
            "nvmlDeviceGetDisplayActive": refuse,
            "nvmlDeviceGetGraphicsRunningProcesses": refuse,
            "nvmlDeviceGetCudaComputeCapability": refuse,
            **others,
        }
    )


def test_a_free_gpu_is_not_waited_for():
    pauses = []
    (found,) = gpu_figures(fake([int(7.8 * GIB)]), [0], pauses.append)
    assert (found.total, found.free, found.desktop, found.capability) == (
        *(8 * GIB, int(7.8 * GIB), False, 0),
    )
    assert pauses == []


def test_one_that_becomes_free_is_waited_for_and_no_longer():
    pauses = []
    free = [2 * GIB, 4 * GIB, 6 * GIB, 6 * GIB, 7 * GIB]
    (found,) = gpu_figures(fake(free), [0], pauses.append)
    assert found.free == 6 * GIB
    assert len(pauses) == 3
    endless = [number << 27 for number in range(1000)]
    gpu_figures(fake(endless), [0], pauses.append)
    assert len(pauses) < 30


@pytest.mark.parametrize(
    ("others", "desktop"),
    [
        ({"nvmlDeviceGetDisplayActive": lambda _handle: 1}, True),
        ({"nvmlDeviceGetGraphicsRunningProcesses": lambda _handle: ["Xorg"]}, True),
        ({"nvmlDeviceGetGraphicsRunningProcesses": lambda _handle: []}, False),
        (
            {
                "nvmlDeviceGetDisplayActive": lambda _handle: 0,
                "nvmlDeviceGetGraphicsRunningProcesses": lambda _handle: ["Xorg"],
            },
            True,
        ),
    ],
)
def test_a_desktop_is_seen(others, desktop):
    (found,) = gpu_figures(fake([8 * GIB], **others), [0], lambda _s: None)
    assert found.desktop is desktop


def test_the_capability():
    nvml = fake([8 * GIB], nvmlDeviceGetCudaComputeCapability=lambda _handle: (8, 9))
    assert gpu_figures(nvml, [0], lambda _s: None)[0].capability == pytest.approx(8.9)


@pytest.mark.parametrize("value", [NVMLError("Not Supported"), OSError("libnvidia-ml.so")])
def test_a_driver_that_tells_nothing_is_said(caplog, value):
    assert gpu_figures(fake([value]), [0, 1], lambda _s: None) == []
    assert "the memory of the GPUs is not known" in caplog.text
    del_free = SimpleNamespace(NVMLError=NVMLError)
    assert gpu_figures(del_free, [0], lambda _s: None) == []
