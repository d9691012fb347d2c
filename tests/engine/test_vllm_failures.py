"""Why vLLM did not start, in our words; runs without vLLM."""

import sys

import pytest

from vgate.config import Config
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm import environment, failures
from vgate.engine.backends.vllm.failures import explanation, is_permanent, start_failure

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


def test_a_lack_of_memory_is_explained(cpu_build):
    text = start_failure(RuntimeError(f"{OUT_OF_MEMORY}\n\nMore details."), Config())
    first, second = text.splitlines()
    assert first == OUT_OF_MEMORY
    assert ("The machine's memory" if cpu_build else "The GPU's memory") in second


def test_a_cache_that_is_too_small_is_explained(cpu_build):
    text = start_failure(ValueError("The KV cache is too small."), Config())
    wanted = "engine_args.kv_cache_memory_bytes" if cpu_build else "gpu_memory_utilization"
    assert text.endswith(f"or raise model.{wanted}.")


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
            "_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4",
            "has no kernel static_scaled_fp8_quant: take a version of it",
        ),
        (
            "Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL`",
            "needs a GPU and found none",
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


class BrokenVLLM:
    """Finds a vLLM that fails in its own way when it is imported."""

    @staticmethod
    def find_spec(name, *_):
        if name == "vllm":
            raise OSError("libcudart.so.12: cannot open shared object file\n\nand more")


def test_a_vllm_that_cannot_be_imported_is_never_tried_again(monkeypatch):
    monkeypatch.setattr(environment, "prepare_environment", lambda _: None)
    monkeypatch.setattr(sys, "meta_path", [BrokenVLLM, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(BackendError, match=r"can't be imported here \(OSError: libcud") as caught:
        environment.create(Config(), lambda _: None)
    assert caught.value.permanent
    assert "bin/vgate" in str(caught.value)
    assert "more" not in str(caught.value)
