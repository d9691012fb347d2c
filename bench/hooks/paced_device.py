"""Replaces the device under vLLM.

`PACED_DEVICE` is JSON. `base_us`, `sequence_us` and `prompt_token_us` are the parts of a step's
time; `overlap` is whether the next step is scheduled while one computes (asynchronous scheduling);
`counters` is null, or a file that holds what the device did so far. Without the variable nothing is
replaced.

On a CPU vLLM forces asynchronous scheduling off, a process of its own for the worker, and blocks of
the KV cache of 32 tokens or more. All three are undone, so that the engine is laid out as on a GPU.
"""

import json
import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WORKER = "vllm.v1.worker.gpu_worker"  # the CPU's worker is a subclass of the one in it
_PLATFORM = "vllm.platforms.cpu"
_ATTENTION = "vllm.v1.attention.backends.cpu_attn"
# The first that a byte-level tokenizer made of two bytes: each is common text, none is special.
_FIRST_TOKEN, _TOKENS = 256, 100
_COUNTERS = struct.Struct("=7Q")  # in the order of bench.paced_device.device.Counters


def _next_token(computed: int, length: int) -> list[int]:
    """Return the token after a sequence of that length, if all of it is computed."""
    return [_FIRST_TOKEN + length % _TOKENS] if computed >= length else []


class _Device:
    """The device's clock: when it is free again, and what it did."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.overlap: bool = settings["overlap"]
        self._times_us = tuple(
            settings[part] for part in ("base_us", "sequence_us", "prompt_token_us")
        )
        self._free_at = 0.0
        self._prompts: dict[str, int] = {}
        self._counts = [0] * 7
        self._path: str | None = settings["counters"]
        self._counters: mmap.mmap | None = None

    def forget(self, finished: set[str]) -> None:
        """Drop what is kept of sequences that ended."""
        for request_id in finished:
            self._prompts.pop(request_id, None)

    def start(self, scheduled: Any) -> tuple[float, list[str], list[list[int]]]:
        """Begin a step; return when it ends, its sequences, and the tokens of each."""
        ids, tokens, again = [], [], 0
        number = scheduled.num_scheduled_tokens
        for new in scheduled.scheduled_new_reqs:
            # vLLM's newer runner gets a sequence that resumes as a new one.
            again += new.req_id in self._prompts
            self._prompts[new.req_id] = len(new.prompt_token_ids)
            known = getattr(new, "prefill_token_ids", None) or new.prompt_token_ids
            ids.append(new.req_id)
            tokens.append(_next_token(new.num_computed_tokens + number[new.req_id], len(known)))
        cached = scheduled.scheduled_cached_reqs
        ids += cached.req_ids
        for request_id, computed, outputs in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            length = self._prompts[request_id] + outputs
            tokens.append(_next_token(computed + number[request_id], length))
        prompts = scheduled.total_num_scheduled_tokens - len(ids)
        base, sequence, prompt_token = self._times_us
        took_us = base + sequence * len(ids) + prompt_token * prompts
        self._free_at = max(self._free_at, time.monotonic()) + took_us / 1e6
        started = len(scheduled.scheduled_new_reqs) - again
        resumed = again + len(cached.resumed_req_ids)
        self._count(1, round(took_us), sum(map(len, tokens)), prompts, started, resumed)
        return self._free_at, ids, tokens

    def count_cpu(self, seconds: float) -> None:
        """Count the processor's time that the device itself took, and write all counters."""
        self._counts[-1] += round(seconds * 1e6)
        if self._path is None:
            return
        if self._counters is None:
            # With the first step: other processes import the worker's module and never use it.
            Path(self._path).write_bytes(bytes(_COUNTERS.size))
            with Path(self._path).open("r+b") as file:
                self._counters = mmap.mmap(file.fileno(), _COUNTERS.size)
        _COUNTERS.pack_into(self._counters, 0, *self._counts)

    def _count(self, *values: int) -> None:
        for place, value in enumerate(values):
            self._counts[place] += value


def _pace(module: Any, device: _Device) -> None:
    """Put the device in the place of the worker's model."""
    from vllm.v1.outputs import (
        EMPTY_MODEL_RUNNER_OUTPUT,
        AsyncModelRunnerOutput,
        ModelRunnerOutput,
    )

    class Later(AsyncModelRunnerOutput):  # type: ignore[misc]
        """A step's tokens, which are there when the device has computed them."""

        def __init__(self, ends_at: float, output: Any) -> None:
            self._ends_at = ends_at
            self._output = output

        def get_output(self) -> Any:
            wait_s = self._ends_at - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            return self._output

    def execute_model(self: Any, scheduled: Any) -> Any:
        began = time.thread_time()
        device.forget(scheduled.finished_req_ids)
        if not scheduled.total_num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        self.paced_step = device.start(scheduled)
        device.count_cpu(time.thread_time() - began)
        return None

    def sample_tokens(self: Any, _grammar: Any) -> Any:
        ends_at, ids, tokens = self.paced_step
        places = {request_id: place for place, request_id in enumerate(ids)}
        later = Later(ends_at, ModelRunnerOutput(ids, places, tokens))
        return later if device.overlap else later.get_output()

    module.Worker.execute_model = execute_model
    module.Worker.sample_tokens = sample_tokens


def _lay_out_as_on_gpu(module: Any, *, overlap: bool) -> None:
    """Undo what the CPU's platform changes in the configuration."""
    platform = module.CpuPlatform
    check = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = overlap
        vllm_config.parallel_config.distributed_executor_backend = "uni"

    platform.check_and_update_config = classmethod(check_and_update_config)


def _allow_small_blocks(module: Any) -> None:
    """Allow blocks of any multiple of 16 tokens: no kernel will read them."""
    backend = module.CPUAttentionBackend
    backend.get_supported_kernel_block_sizes = staticmethod(
        lambda *_arguments: [module.MultipleOf(16)]
    )


def changes(text: str) -> dict[str, Callable[[Any], None]]:
    """Return the changes that put the device, which a text in JSON describes, under vLLM."""
    settings = json.loads(text)

    def pace(module: Any) -> None:
        _pace(module, _Device(settings))

    def lay_out(module: Any) -> None:
        _lay_out_as_on_gpu(module, overlap=settings["overlap"])

    return {_WORKER: pace, _PLATFORM: lay_out, _ATTENTION: _allow_small_blocks}
