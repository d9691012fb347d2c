"""`python -m tests.engine.vllm_program MODEL REPORT`: drives the vLLM backend, and reports.

A process of its own, since one can hold one engine only. The KV cache is small, so that a full
batch is preempted.
"""

import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import Batch
from vgate.engine.backends import load_backend
from vgate.engine.backends.base import WorkerDiedError
from vgate.engine.request import Request, RequestError
from vgate.wire.parameters import DEFAULTS, NO_OPTIONS, GenerateOptions, SamplingParams

BLOCK_TOKENS = 32
KV_BLOCKS = 24
SEQUENCES = 8
# Two layers with a key and a value of one head of 32 numbers of 4 bytes.
_KV_BYTES_PER_TOKEN = 2 * 2 * 32 * 4
# One value for every parameter, none of them the default.
NOT_DEFAULTS = SamplingParams(
    temperature=0.7,
    top_p=0.9,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    seed=11,
    top_k=40,
    min_p=0.1,
    repetition_penalty=1.2,
    max_tokens=77,
    min_tokens=3,
    stop_token_ids=[5, 6],
    ignore_eos=True,
    logit_bias={3: -1.5, 4: 2.0},
    allowed_token_ids=[3, 4, 5, 6, 7],
)
OPTIONS = GenerateOptions(logprobs=4, prompt_logprobs=2, bad_words=[[1], [2, 3]])


class Generated(msgspec.Struct):
    """What became of a request."""

    tokens: list[int] = []
    finish_reason: str | None = None
    cached_tokens: int = 0
    preemptions: int = 0


class Driver:
    """Runs requests on the backend until all have ended."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.preemptions = 0
        self._numbers = iter(range(1_000_000))

    def request(self, prompt: list[int], sampling: SamplingParams) -> Request:
        return Request(str(next(self._numbers)), prompt, sampling)

    def greedy(self, prompt: list[int], tokens: int) -> Request:
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        return self.request(prompt, sampling.over(DEFAULTS))

    def run(self, *requests: Request) -> list[Generated]:
        found = {request.key: Generated() for request in requests}
        for request in requests:
            self.backend.add(request)
        for outputs in self._steps():
            for key, tokens, finish_reason, facts, *_ in outputs:
                one = found[key]
                assert one.finish_reason is None, "an output after the last"
                one.tokens += tokens
                one.finish_reason = finish_reason
                if facts is not None:
                    one.cached_tokens += facts.cached_tokens
                    one.preemptions = facts.preemptions
        return list(found.values())

    def refusal(self, prompt: list[int], sampling: SamplingParams) -> list[str | None]:
        try:
            self.backend.add(self.request(prompt, sampling))
        except RequestError as error:
            return [error.code, error.reason, error.subject]
        return []

    def _steps(self) -> Iterator[Any]:
        while self.backend.has_work():
            yield self.backend.step() or ()
            for request in self.backend._core.scheduler.requests.values():
                self.preemptions = max(self.preemptions, request.num_preemptions)


def preemption(driver: Driver) -> dict[str, Any]:
    """A batch that does not fit must give what each sequence gives alone."""
    prompts = [[100 + n, *range(300, 320)] for n in range(SEQUENCES)]
    alone = [driver.run(driver.greedy(prompt, 150))[0].tokens for prompt in prompts]
    assert driver.preemptions == 0
    together = driver.run(*(driver.greedy(prompt, 150) for prompt in prompts))
    return {
        "preemptions": driver.preemptions,
        "as_alone": [one.tokens for one in together] == alone,
        "lengths": [len(one.tokens) for one in together],
        "told": sum(one.preemptions for one in together),
        "counted": driver.backend.counts().preemptions,
        "usage_after": driver.backend.kv_cache_usage(),
    }


def prefix_cache(driver: Driver) -> dict[str, Any]:
    """A repeated prompt must be found, and change nothing."""
    prompt = list(range(700, 800))
    first, second = (driver.run(driver.greedy(prompt, 40))[0] for _ in range(2))
    return {
        "cached": [first.cached_tokens, second.cached_tokens],
        "as_first": first.tokens == second.tokens,
    }


def abort(driver: Driver) -> dict[str, Any]:
    """An aborted sequence must leave nothing behind."""
    backend = driver.backend
    stays, goes = driver.greedy([1, 2, 3], 30), driver.greedy([4, 5, 6], 200)
    backend.add(stays)
    backend.add(goes)
    seen = {output.key for _ in range(3) for output in backend.step() or ()}
    busy = backend.kv_cache_usage()
    backend.abort([goes.key, "unknown"])
    after: set[str] = set()
    while backend.has_work():
        after |= {output.key for output in backend.step() or ()}
    return {
        "ran": len(seen),
        "usage": [busy > 0, backend.kv_cache_usage()],
        "only_the_other_went_on": after == {stays.key},
        "step_without_work": backend.step(),
    }


def batch_queue(driver: Driver) -> dict[str, Any]:
    """Steps must come out the same where vLLM queues batches, as on several GPUs."""
    core, prompts = driver.backend._core, [[40 + n, 41, 42] for n in range(SEQUENCES)]
    expected = [one.tokens for one in driver.run(*(driver.greedy(p, 20) for p in prompts))]
    before = core.step_fn
    core.batch_queue_size = 2
    core.batch_queue = deque(maxlen=2)
    core.step_fn = core.step_with_batch_queue
    try:
        found = driver.run(*(driver.greedy(p, 20) for p in prompts))
        return {
            "same": [one.tokens for one in found] == expected,
            "settled": not core.batch_queue and not driver.backend.has_work(),
        }
    finally:
        core.batch_queue, core.step_fn = None, before


def ends(driver: Driver, eos: list[int]) -> dict[str, Any]:
    """End-of-text tokens stop a generation, unless they are ignored."""

    def sampled(*, ignore_eos: bool) -> list[Generated]:
        sampling = [
            SamplingParams(temperature=2.0, max_tokens=128, seed=seed, ignore_eos=ignore_eos)
            for seed in range(48)
        ]
        return driver.run(*(driver.request([9, 8, 7], s.over(DEFAULTS)) for s in sampling))

    normal, ignoring = sampled(ignore_eos=False), sampled(ignore_eos=True)
    stopped = [one for one in normal if one.finish_reason == "stop"]
    return {
        "stopped": len(stopped),
        "at_eos": all(one.tokens[-1] in eos for one in stopped),
        "none_before": not any(token in eos for one in normal for token in one.tokens[:-1]),
        "ignored": sum(any(token in eos for token in one.tokens) for one in ignoring),
        "full": all(len(one.tokens) == 128 for one in ignoring),
    }


def parameters(backend: Any) -> dict[str, Any]:
    """Every parameter must arrive under its name; -1 is a seed like any other."""
    generation = backend._parameters.generation
    mapped = generation(NOT_DEFAULTS, NO_OPTIONS)
    seed = generation(SamplingParams(seed=-1), NO_OPTIONS).seed
    bare = generation(SamplingParams(), NO_OPTIONS)
    told = generation(SamplingParams(), OPTIONS)
    return {
        "mapped": {name: getattr(mapped, name) for name in SamplingParams.__struct_fields__},
        "told": [told.logprobs, told.prompt_logprobs, told.bad_words_token_ids],
        "seed_of_minus_one": seed,
        "temperature_of_none": bare.temperature,
        "logprobs": mapped.logprobs,
    }


def finish_reasons(backend: Any) -> dict[str, list[Any]]:
    """Every reason that vLLM knows must become one of ours or an error."""
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    found = {}
    for reason in [None, *FinishReason]:
        output = backend._output(EngineCoreOutput("key", [1], finish_reason=reason))
        error = output.error.code if output.error else None
        found[str(reason)] = [output.finish_reason, error]
    return found


def process_groups() -> dict[str, Any]:
    """A process that runs the model alone needs one group, and has gloo's threads for no more."""
    import torch

    from vgate.engine.backends.vllm.setup import one_group

    make = torch.distributed.new_group
    with one_group(2):
        untouched = torch.distributed.new_group is make
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return {"threads": names.count("gloo_tcp_loop"), "untouched_for_two": untouched}


def main(model: str, report_path: str) -> None:
    """Load the model, run everything, write the report."""
    config = Config(
        model=Model(
            model_id=model,
            max_model_len=256,
            dtype="float32",
            engine_args={
                "block_size": BLOCK_TOKENS,
                "kv_cache_memory_bytes": KV_BLOCKS * BLOCK_TOKENS * _KV_BYTES_PER_TOKEN,
            },
        ),
        batch=Batch(max_num_seqs=SEQUENCES),
    )
    phases: list[str] = []
    backend: Any = load_backend("vllm", config, phases.append)
    driver = Driver(backend)
    generation = json.loads(Path(model, "generation_config.json").read_bytes())
    greedy = SamplingParams(temperature=0.0, max_tokens=4).over(DEFAULTS)
    out_of_vocabulary = msgspec.structs.replace(greedy, stop_token_ids=[2048])
    info = backend.model
    report = {
        "phases": phases,
        "model": [info.max_model_len, info.max_num_seqs, info.kv_cache_tokens],
        "places": backend._core.scheduler.max_num_running_reqs,
        "process_groups": process_groups(),
        "preemption": preemption(driver),
        "prefix_cache": prefix_cache(driver),
        "abort": abort(driver),
        "batch_queue": batch_queue(driver),
        "ends": ends(driver, generation["eos_token_id"]),
        "parameters": parameters(backend),
        "finish_reasons": finish_reasons(backend),
        "refusals": {
            "too_long": driver.refusal([1] * 256, greedy),
            "empty": driver.refusal([], greedy),
            "no_such_token": driver.refusal([2**31], greedy),
            "no_such_stop_token": driver.refusal([1], out_of_vocabulary),
        },
        "work_after_refusals": backend.has_work(),
        "still_works": len(driver.run(driver.greedy([1], 4))[0].tokens),
    }
    backend._on_worker_death()
    report["work_after_death"] = backend.has_work()
    try:
        backend.step()
    except WorkerDiedError as error:
        report["death"] = str(error)
    backend.shutdown()
    Path(report_path).write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
