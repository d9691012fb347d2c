"""Why vLLM did not start, in our words; runs without vLLM."""

import sys
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from vgate.config import Config
from vgate.config.model import Model
from vgate.engine.backends.base import BackendError, WorkerDiedError
from vgate.engine.backends.vllm import environment, failures
from vgate.engine.backends.vllm.failures import (
    explanation,
    is_permanent,
    start_failure,
    worker_failure,
)
from vgate.engine.memory import is_out_of_memory

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
# vLLM's own list goes on.
ARCHITECTURES = "Supported architectures: dict_keys(['AfmoeForCausalLM', 'ApertusForCausalLM'])"


@pytest.fixture(params=[False, True], ids=["GPU", "CPU"])
def cpu_build(request, monkeypatch):
    monkeypatch.setattr(failures, "is_cpu_build", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (RuntimeError(OUT_OF_MEMORY), False),
        (ValueError("Free memory on device cuda:0 (1.0/12.0 GiB) on startup is less than"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), False),
        (OSError(12, "Cannot allocate memory"), False),
        (MemoryError(), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), False),
        (RuntimeError("all CUDA-capable devices are busy or unavailable"), False),
        (OSError(98, "Address already in use"), False),
        (ValueError("Unknown quantization method: foo. Must be one of []."), True),
        (KeyError("layers.0.weight"), True),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(error, permanent):
    assert is_permanent(error) is permanent


ALONE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.76 GiB of "
    "which 98.25 MiB is free. Including non-PyTorch memory, this process has 11.55 GiB memory in "
    "use. Of the allocated memory 11.20 GiB is allocated by PyTorch, and 50.00 MiB is reserved."
)
SHARED = ALONE.replace("Including", "Process 41 has 3.00 GiB memory in use. Including").replace(
    "has 11.55 GiB", "has 8.55 GiB"
)


def test_a_full_gpu_is_tried_again_only_if_others_may_leave_it():
    assert is_permanent(RuntimeError(ALONE))
    assert not is_permanent(RuntimeError(SHARED))
    assert not is_permanent(RuntimeError(OUT_OF_MEMORY))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            ALONE,
            ["memory is full: it asked for 2.00 GiB more, and of 11.76 GiB are 98.25 MiB free"],
        ),
        (
            (
                "No available memory for the cache blocks. Try increasing "
                "`gpu_memory_utilization` when initializing the engine (this flag also "
                "controls CPU memory reservation)."
            ),
            ["none is left for the KV cache", "raise model."],
        ),
        (
            (
                "To serve at least one request with the model's max seq len (32768), (4.00 "
                "GiB KV cache is needed, which is larger than the available KV cache memory "
                "(1.25 GiB). Based on the available memory, the estimated maximum model "
                "length is 10240. Try increasing"
            ),
            ["32768 tokens, model.max_model_len, needs 4.00 GiB", "1.25 GiB are left"],
        ),
        (
            (
                "Free memory on device cuda:0 (1.0/12.0 GiB) on startup is less than desired "
                "GPU memory utilization (0.7, 8.4 GiB). Decrease GPU memory utilization or "
                "reduce GPU memory used"
            ),
            [
                "of the memory's 12.0 GiB only 1.0 are free, and it asks for 8.4 GiB",
                "end other prog",
            ],
        ),
        (
            (
                "Available memory on node 0 (1.0/12.0 GiB) on kv cache allocation is less "
                "than requested memory for kv (3.5 GiB). Decrease --kv-cache-memory-bytes, "
                "VLLM_CPU_KVCACHE_SPACE"
            ),
            ["of the memory's 12.0 GiB only 1.0 are free, and it asks for 3.5 GiB"],
        ),
        (
            "CUDA out of memory occurred when warming up sampler with 256 dummy requests. Try it",
            ["full with 256 sequences at once"],
        ),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes", ["5 bytes"]),
    ],
)
def test_a_lack_of_memory_names_the_numbers_and_what_helps(cpu_build, said, words):
    model = Model(
        model_id="m",
        gpu_memory_utilization=0.7,
        max_model_len=32768,
        engine_args={"kv_cache_memory_bytes": 5},
    )
    text = start_failure(RuntimeError(f"{said}\n\nMore details."), Config(model=model))
    share = "model.engine_args.kv_cache_memory_bytes (5)" if cpu_build else "utilization (0.7)"
    length = (
        "set model.max_model_len to 10240" if "10240" in said else "model.max_model_len (32768)"
    )
    for word in (
        *words,
        *("set batch.max_num_seqs", "smaller model", "quantised (AWQ, GPTQ, FP8)"),
        share,
    ):
        assert word in text
    assert length.lower() in text.lower()
    assert text.count("\n") == 1
    assert "`" not in text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            f"Model architectures ['FooForCausalLM'] are not supported for now. {ARCHITECTURES}",
            "can't run its architecture, ['FooForCausalLM']: serve another model",
        ),
        (
            "awq quantization is currently not supported in tpu.",
            "awq quantization is currently not supported in tpu: take a version of it",
        ),
        (
            (
                "The quantization method auto_awq is not supported for the current GPU. Minimum "
                "capability: 75. Current capability: 70."
            ),
            "its quantization, auto_awq, needs a GPU of compute capability 7.5: take a version",
        ),
        (
            "_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4",
            "has no kernel static_scaled_fp8_quant: take a version of it",
        ),
        (
            "Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL`",
            "needs a GPU and found none",
        ),
        (
            (
                "World size (4) is larger than the number of available GPUs (2) in this node. If "
                "this is intentional and you are using:\n- ray, set"
            ),
            "needs 4 GPUs, and this machine has 2: lower them, or set",
        ),
        (
            "Pipeline parallelism is not supported for this model. Supported models implement",
            "set model.pipeline_parallel_size to 1",
        ),
    ],
)
def test_it_says_what_to_do(said, words):
    text = start_failure(ValueError(said), Config())
    assert text.startswith(f"vLLM can't serve {Config().model.model_id}: ")
    assert words in text
    assert "dict_keys" not in text


def test_what_is_not_known_is_not_explained():
    error = RuntimeError("There is no module or parameter named 'x' in Qwen2Model")
    assert explanation(error, Config()) is None
    assert start_failure(error, Config()).endswith("named 'x' in Qwen2Model")


def run_of(result):
    """Return a run of the model as vLLM's executors do: a future, or where it waits a result."""
    run = Future()
    if isinstance(result, Exception):
        run.set_exception(result)
    else:
        run.set_result(result)
    return run


def test_a_run_that_failed_in_a_worker_is_the_reason():
    failed = run_of(RuntimeError("Worker failed with error 'CUDA out of memory'"))
    runs = [run_of(None), None, failed, run_of(None), Future()]
    found = worker_failure(SimpleNamespace(is_failed=False, last_runs=runs))
    assert "CUDA out of memory" in str(found)
    assert is_out_of_memory(found)
    assert worker_failure(SimpleNamespace(is_failed=False, last_runs=[run_of(None)])) is None
    # One worker, in this process.
    assert worker_failure(SimpleNamespace()) is None


def test_a_worker_that_died_is_the_reason_of_all_that_follows():
    runs = [run_of(RuntimeError("cancelled"))]
    found = worker_failure(SimpleNamespace(is_failed=True, last_runs=runs))
    assert isinstance(found, WorkerDiedError)
    assert not is_permanent(found)


class BrokenVLLM:
    """Finds a vLLM that fails in its own way when it is imported."""

    @staticmethod
    def find_spec(name, *_):
        if name == "vllm":
            raise OSError("libcudart.so.12: cannot open shared object file\n\nand more")


def test_a_vllm_that_cannot_be_imported_is_never_tried_again(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "prepare_environment", lambda _: None)
    monkeypatch.setattr(environment, "model_directory", lambda *_: tmp_path)
    monkeypatch.setattr(sys, "meta_path", [BrokenVLLM, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(BackendError, match=r"can't be imported here \(OSError: libcud") as caught:
        environment.create(Config(), lambda _: None)
    assert caught.value.permanent
    assert "bin/vgate" in str(caught.value)
    assert "more" not in str(caught.value)
