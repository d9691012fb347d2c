"""Starts engines that don't fit, as the launcher would; writes what becomes of each:

python -m tests.engine.vllm_starts_program MODEL WORK REPORT

Each try is a process, forked once vLLM is imported. `vgate.engine.main` runs it up to where it
would serve. A card is a fake of NVML, and what vLLM says of it are its own words.
"""

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from vgate.config import Config, Runtime, local_engines
from vgate.config.model import Model
from vgate.config.schema import Batch, Server
from vgate.engine import main as engine
from vgate.engine.backends.vllm.environment import prepare_environment

MIB, GIB = 1 << 20, 1 << 30
# The launcher would start it again that often.
MOST_TRIES = 6

NO_BLOCKS = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
    "initializing the engine (this flag also controls CPU memory reservation on the CPU backend, "
    "despite its name). See https://docs.vllm.ai/en/latest/ for more details."
)
TOO_SMALL = (
    "To serve at least one request with the model's max seq len (4096), (1.00 GiB KV cache is "
    "needed, which is larger than the available KV cache memory (0.01 GiB). Based on the available "
    "memory, the estimated maximum model length is 96. Try increasing `gpu_memory_utilization`."
)
FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of "
    "which 98.25 MiB is free. Process 12 has 3.00 GiB memory in use. Including non-PyTorch memory, "
    "this process has 4.90 GiB memory in use."
)
WARM_UP = (
    "CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try "
    "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
)
TAKEN = (
    "Free memory on device cuda:0 (3.1/8.0 GiB) on startup is less than desired GPU memory "
    "utilization (0.856, 6.85 GiB). Decrease GPU memory utilization or reduce GPU memory used by "
    "other processes."
)
GPU_8 = {"total": 8 * GIB, "free": int(7.8 * GIB)}

# By name: the model's and the batch's settings, and what is around them. limit: bytes that the
# process may still map. gpu: what NVML says; None: it fails. says: what vLLM says in each try.
CASES: dict[str, dict[str, Any]] = {
    # On the CPU, with vLLM's own measures.
    "plenty": {},
    "small_cache": {"model": {"engine_args": {"kv_cache_memory_bytes": 1_100_000}}},
    "too_long_for_the_cache": {
        "model": {"max_model_len": 4096, "engine_args": {"kv_cache_memory_bytes": 500_000}}
    },
    "no_cache": {"model": {"engine_args": {"kv_cache_memory_bytes": 20_000}}},
    "little_memory": {"model": {"memory_bytes": 156 * MIB}},
    "no_memory": {"model": {"memory_bytes": MIB}},
    "huge_weights": {"weights": 1 << 40},
    "batch": {"model": {"max_model_len": 256}, "batch": 100_000},
    "beyond_its_own": {"model": {"max_model_len": 5000}},
    "unknown_sizes": {"config": {"num_hidden_layers": "2"}},
    "absent_sizes": {"pickled": True},
    "address_space": {"limit": 24 * MIB},
    # On a card.
    "card": {"gpu": GPU_8},
    "shared_card": {"gpu": {**GPU_8, "free": 3 * GIB}},
    "full_card": {"gpu": {**GPU_8, "free": GIB // 4}},
    "asked_for_more": {"gpu": {**GPU_8, "free": 3 * GIB}, "model": {"gpu_memory_utilization": 0.9}},
    "bound": {"gpu": GPU_8, "model": {"memory_bytes": 2 * GIB}},
    "bound_and_out": {"gpu": GPU_8, "model": {"memory_bytes": 2 * GIB}, "says": [FULL]},
    "desktop": {"gpu": {**GPU_8, "free": 7 * GIB, "desktop": True}},
    "silent_card": {"gpu": None},
    "out_once": {"gpu": GPU_8, "says": [FULL]},
    "out_in_warm_up": {"gpu": GPU_8, "batch": 256, "says": [WARM_UP, WARM_UP]},
    "out_always": {"gpu": GPU_8, "says": [FULL] * MOST_TRIES},
    "no_blocks": {"gpu": GPU_8, "says": [NO_BLOCKS, TOO_SMALL, NO_BLOCKS, NO_BLOCKS]},
    "taken_meanwhile": {"gpu": GPU_8, "says": [TAKEN]},
}


class Served(BaseException):
    """The fake card has the model."""


class Link:
    """What the engine tells the launcher."""

    def __init__(self, _runtime: Runtime) -> None:
        self.told: dict[str, Any] = {}

    def phase(self, *_: Any) -> None:
        pass

    progress = phase

    def failed(self, reason: str, **about: Any) -> None:
        self.told = {"failed": reason, **about}

    def ready(self, summary: str, model: Any, *, chosen: str, **_: Any) -> None:
        sizes = [model.max_model_len, model.max_num_seqs]
        self.told = {"summary": summary, "chosen": chosen, "sizes": sizes}

    def close(self) -> None:
        pass


class NVMLError(Exception):
    pass


def nvml(gpu: dict[str, Any] | None) -> Any:
    """Return a fake of pynvml."""

    def memory(_handle: int) -> Any:
        if gpu is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=gpu["total"], free=gpu["free"])

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=int,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetDisplayActive=lambda _handle: (gpu or {}).get("desktop", False),
        nvmlDeviceGetGraphicsRunningProcesses=lambda _handle: [],
        nvmlDeviceGetCudaComputeCapability=lambda _handle: (8, 9),
    )


def put_card(gpu: dict[str, Any] | None, says: list[str]) -> None:
    """Have V-Gate see a card, on which vLLM loads what it says nothing of."""
    from vgate.engine.backends.vllm import backend, failures
    from vgate.engine.backends.vllm.sizing import facts, start

    start.is_cpu_build = failures.is_cpu_build = lambda: False
    facts.import_pynvml = lambda: nvml(gpu)
    facts.current_platform = SimpleNamespace(
        is_cuda=lambda: True, device_id_to_physical_device_id=int
    )
    sizings: list[Any] = []
    given = backend.engine_config

    def engine_config(*arguments: Any) -> Any:
        found = given(*arguments)
        sizings.append(found[1])
        return found

    def load(_self: Any, vllm_config: Any, *_: Any) -> None:
        if says:
            raise RuntimeError(says[0])
        sizes = vllm_config.model_config.max_model_len, sizings[0].arguments["max_num_seqs"]
        raise Served(*sizes, sizings[0].told(*sizes), sizings[0].arguments)

    backend.engine_config = engine_config
    backend.VLLMBackend._load = load


def attempt(case: dict[str, Any], runtime: Runtime, number: int) -> dict[str, Any]:
    """Start an engine once; return what it told, and its exit status."""
    links: list[Link] = []
    memories: list[Any] = []
    Memory = engine.Memory  # noqa: N806
    engine.Memory = lambda *given: memories.append(Memory(*given)) or memories[-1]
    engine.ControlLink = lambda given: links.append(Link(given)) or links[-1]
    engine.EngineLoop = lambda *_, **__: SimpleNamespace(
        stats=SimpleNamespace(), run=lambda: None, end=lambda _why: None
    )
    if "gpu" in case:
        put_card(case["gpu"], case.get("says", [])[number:])
    if "limit" in case:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + case["limit"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        status = engine.run(runtime, 0)
    except Served as served:
        context, sequences, chosen, arguments = served.args
        memories[0].serves(chosen)
        share = arguments["gpu_memory_utilization"]
        told = {"chosen": chosen + memories[0].summary, "sizes": [context, sequences]}
        kv = arguments.get("kv_cache_memory_bytes")
        return {**told, "share": share, "kv_bytes": kv, "status": 0}
    return {**links[0].told, "status": status}


def start(name: str, model: Path, work: Path) -> list[dict[str, Any]]:
    """Start an engine until it serves or may not be started again; return each try's outcome."""
    case, directory = CASES[name], work / name
    shutil.copytree(model, directory / "model")
    if changes := case.get("config"):
        path = directory / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    weights = directory / "model" / "model.safetensors"
    if size := case.get("weights"):
        grow(weights, size)
    if case.get("pickled"):
        pickle(weights)
    run_dir = directory / "run"
    (run_dir / "engines").mkdir(parents=True)
    settings = {"model_id": str(directory / "model"), "dtype": "float32", "fill": "never"}
    config = Config(
        model=Model(**settings, **case.get("model", {})),
        batch=Batch(max_num_seqs=case.get("batch", "auto")),
        server=Server(state_dir=str(directory / "state")),
    )
    engines = local_engines(config, str(run_dir))
    runtime = Runtime(config=config, backend="vllm", run_dir=str(run_dir), engines=engines)
    found: list[dict[str, Any]] = []
    while len(found) < MOST_TRIES:
        path = directory / f"{len(found)}.json"
        if not (pid := os.fork()):
            path.write_bytes(msgspec.json.encode(attempt(case, runtime, len(found))))
            os._exit(0)
        os.waitpid(pid, 0)
        found.append(json.loads(path.read_bytes()) if path.exists() else {"status": -1})
        if found[-1]["status"] in (0, engine.EXIT_PERMANENT):
            break
    return found


def grow(weights: Path, size: int) -> None:
    """Give a file of weights a tensor that is a hole in it."""
    content = weights.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:end]), content[end:]
    offsets = [len(data), len(data) + size]
    header["model.layers.0.mlp.huge.weight"] = {
        "dtype": "F32",
        "shape": [size >> 12, 1 << 10],
        "data_offsets": offsets,
    }
    text = json.dumps(header).encode()
    with weights.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)
        file.truncate(file.tell() + size)


def pickle(weights: Path) -> None:
    """Replace a file of weights by one that doesn't tell its sizes."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def main() -> None:
    model, work, report = map(Path, sys.argv[1:])
    prepare_environment(Model(model_id=str(model)))
    import vgate.engine.backends.vllm.backend  # noqa: F401 - once for all cases

    report.write_text(json.dumps({name: start(name, model, work) for name in CASES}))


if __name__ == "__main__":
    main()
