"""Changes vLLM in the processes of an instance: Python imports this by its name from PYTHONPATH.

- With RAY_OVERRIDE_RESOURCES the CPU build runs its workers with Ray. It is refused there only
  because the platform doesn't say what Ray calls its devices.
- With WORKER_FAULT, the name of a file, the last stage fails once as if memory were out, at its
  first step while there is such a file.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_PLATFORM, _WORKER = "vllm.platforms.cpu", "vllm.v1.worker.gpu_worker"


def _name_devices(module: Any) -> None:
    module.CpuPlatform.ray_device_key = "GPU"


def _fail_once(module: Any) -> None:
    usual, fault = module.Worker.execute_model, Path(os.environ["WORKER_FAULT"])

    def execute_model(worker: Any, scheduled: Any) -> Any:
        stages = worker.parallel_config.pipeline_parallel_size
        if worker.rank == stages - 1 and scheduled.total_num_scheduled_tokens and fault.exists():
            fault.unlink()
            message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"
            raise RuntimeError(message)
        return usual(worker, scheduled)

    module.Worker.execute_model = execute_model


_CHANGES = {
    _PLATFORM: ("RAY_OVERRIDE_RESOURCES", _name_devices),
    _WORKER: ("WORKER_FAULT", _fail_once),
}


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _CHANGES[module.__name__][1](module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, _target: Any = None) -> Any:
        if name not in _CHANGES or _CHANGES[name][0] not in os.environ:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, _Finder())
