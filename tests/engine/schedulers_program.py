"""`python -m tests.engine.schedulers_program MODEL REPORT`: our scheduler and vLLM's, step by step.

Both get the same random requests and the same tokens, without a model. What we follow of their
block pools is compared with the pools. REPORT gets, for each kind of scheduler, the first
difference (or null) and how often each case came up.
"""

import dataclasses
import json
import random
import sys
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vgate.engine.blocks.vllm_hashes import short_hasher
from vgate.engine.blocks.vllm_pool import follow_pool
from vgate.wire.kv_blocks import block_keys, block_seed

BLOCK_TOKENS = 16
BLOCKS = 40
SEQUENCES = 10
STEP_TOKENS = 64
STEPS = 300
SALTS = [None, None, "a", "b"]
SEEDS = range(3)
EOS, STOP = 7, 8
_STATE = (
    *("status", "num_computed_tokens", "num_in_flight_tokens", "num_output_placeholders"),
    *("is_prefill_chunk", "num_preemptions", "stop_reason", "block_hashes", "_all_token_ids"),
)


class Grammars:
    """In the place of vLLM's grammars: every token follows them."""

    def accept_tokens(self, *_arguments: Any) -> bool:
        return True


class Pair:
    """Our scheduler and vLLM's; steps are `depth` ahead of their tokens."""

    def __init__(self, schedulers: tuple[Any, Any], depth: int, seed: int, hashers: Any) -> None:
        self.vllm, self.ours = self.both = schedulers
        self.random = random.Random(seed)
        self._depth, self._hashers = depth, hashers
        self._numbers = iter(range(1_000_000))
        self._steps: deque[tuple[Any, Any, Any]] = deque()
        self._pools = [
            (scheduler.kv_cache_manager.block_pool, follow_pool(scheduler.kv_cache_manager))
            for scheduler in schedulers
        ]
        # By the hash of a block's last block in vLLM.
        self._keys: dict[bytes, int] = {}
        self.cases: Counter[str] = Counter()

    def run(self) -> str | None:
        """Return the first difference."""
        number = 0
        while number < STEPS or self.vllm.has_requests() or self._steps:
            if number < STEPS:
                self._change_requests(number)
            if (found := self._schedule() or self._update()) is not None:
                return f"step {number}: {found}"
            number += 1
            assert number < 10 * STEPS, "requests are left"
        return None

    def _change_requests(self, number: int) -> None:
        # Bursts and pauses: many that wait, none that waits, none that runs.
        if self.random.random() < (0.5 if number // 40 % 3 else 0.05):
            self._add()
        alive = list(self.vllm.requests)
        if alive and self.random.random() < 0.03:
            self.cases["aborted"] += 1
            key = self.random.choice(alive)
            for scheduler in self.both:
                scheduler.finish_requests(key, _aborted())
        if self.random.random() < 0.02:
            self.cases["cache reset"] += 1
            for scheduler in self.both:
                scheduler.reset_prefix_cache(reset_running_requests=True)

    def _add(self) -> None:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        draw = self.random
        shared = [1 + draw.randrange(2)] * draw.choice([0, 0, 40])
        prompt = shared + [draw.randrange(20, 50) for _ in range(draw.randrange(1, 70))]
        options = draw.choice([{}] * 6 + [{"logprobs": 2}, {"min_tokens": 1}])
        params = SamplingParams(
            max_tokens=draw.choice([1, 2, 17, 60, 300]),
            stop_token_ids=draw.choice([None, [STOP]]),
            **options,
        )
        if draw.random() < 0.7:
            params._eos_token_id = EOS
        key, grammar = str(next(self._numbers)), draw.random() < 0.1
        salt = draw.choice(SALTS)
        for scheduler, hasher in zip(self.both, self._hashers, strict=True):
            request = Request(
                *(key, prompt, params, None),
                block_hasher=hasher,
                arrival_time=0,
                cache_salt=salt,
            )
            if grammar:
                request.structured_output_request = SimpleNamespace(grammar=object())
            scheduler.add_request(request)
        self.cases["with a grammar" if grammar else f"with {[*options]}"] += 1

    def _schedule(self) -> str | None:
        theirs, ours = (scheduler.schedule() for scheduler in self.both)
        self.cases["preempted"] += len(theirs.preempted_req_ids or ())
        self.cases["short way"] += ours.short
        self.cases["steps of both ways"] += 0 < ours.short < len(ours.num_scheduled_tokens)
        del ours.short
        if theirs.total_num_scheduled_tokens:
            self._steps.append((theirs, ours, self._ran(theirs)))
        return _difference(dataclasses.asdict(theirs), dataclasses.asdict(ours))

    def _ran(self, scheduled: Any) -> Any:
        """Return what a model's runner would: its order is its own."""
        import numpy as np
        from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

        ids = list(scheduled.num_scheduled_tokens)
        self.random.shuffle(ids)
        requests = [self.vllm.requests[key] for key in ids]
        tokens = [[] if one.is_prefill_chunk else [self.random.randrange(50)] for one in requests]
        rows = np.arange(3 * len(ids)).reshape(-1, 3)
        logprobs = LogprobsLists(rows, rows / 2, rows[:, 0])
        return ModelRunnerOutput(ids, {key: at for at, key in enumerate(ids)}, tokens, logprobs)

    def _update(self) -> str | None:
        if not self._steps or (len(self._steps) < self._depth and self.random.random() < 0.9):
            return None
        *scheduled, ran = self._steps.popleft()
        self._learn_keys()
        theirs, ours = (
            _outputs(
                scheduler.update_from_output(
                    one,
                    dataclasses.replace(
                        ran, sampled_token_ids=[list(tokens) for tokens in ran.sampled_token_ids]
                    ),
                )
            )
            for scheduler, one in zip(self.both, scheduled, strict=True)
        )
        for output in theirs.values():
            if output["finish_reason"] is not None:
                self.cases[f"ended: {output['finish_reason'].name}"] += 1
            if output["prefill_stats"] is not None:
                self.cases["cached"] += output["prefill_stats"].num_cached_tokens > 0
        self._learn_keys()
        return (
            _difference(theirs, ours)
            or _difference(*map(_state, self.both))
            or self._wrongly_followed()
        )

    def _learn_keys(self) -> None:
        """Note the keys of all blocks of the requests."""
        for request in self.vllm.requests.values():
            seed = block_seed("", request.cache_salt or "")
            size, tokens = self._pools[0][1].block_tokens, request.all_token_ids
            each = size // BLOCK_TOKENS
            for key, name in zip(
                block_keys(tokens, size, seed), request.block_hashes[each - 1 :: each], strict=True
            ):
                # With the number of the group.
                self._keys[name + bytes(4)] = key

    def _wrongly_followed(self) -> str | None:
        for pool, blocks in self._pools:
            names = pool.cached_block_hash_to_block._cache
            cached = {name: self._keys[name] for name in names if name in self._keys}
            if blocks.keys != cached:
                return f"{len(cached)} keys are cached, {len(blocks.keys)} are said to be"
            self.cases["keys"] += len(cached)
        return None


def _aborted() -> Any:
    from vllm.v1.request import RequestStatus

    return RequestStatus.FINISHED_ABORTED


def _outputs(by_client: dict[int, Any]) -> dict[str, dict[str, Any]]:
    """Return the outputs by request: their order in a step does not matter."""
    import msgspec

    assert set(by_client) <= {0}
    outputs = by_client[0].outputs if by_client else []
    found = {one.request_id: msgspec.structs.asdict(one) for one in outputs}
    assert len(found) == len(outputs)
    for one in found.values():
        if (logprobs := one["new_logprobs"]) is not None:
            one["new_logprobs"] = [part.tolist() for part in logprobs[:3]]
    return found


def _state(scheduler: Any) -> dict[str, Any]:
    """Return everything that later steps depend on."""
    manager = scheduler.kv_cache_manager
    return {
        "running": [request.request_id for request in scheduler.running],
        "waiting": [request.request_id for request in scheduler.waiting],
        "known": sorted(scheduler.prev_step_scheduled_req_ids),
        "finished": sorted(scheduler.finished_req_ids),
        "blocks": {key: manager.get_block_ids(key) for key in scheduler.requests},
        "free": manager.block_pool.get_num_free_blocks(),
        "cached": dict(manager.coordinator.single_type_managers[0].num_cached_block),
        "limits": [scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens],
    } | {
        key: {name: getattr(request, name) for name in _STATE}
        for key, request in scheduler.requests.items()
    }


def _difference(theirs: dict[Any, Any], ours: dict[Any, Any]) -> str | None:
    keys = [*theirs, *(key for key in ours if key not in theirs)]
    different = [key for key in keys if theirs.get(key) != ours.get(key)]
    return (
        f"{different[0]}: {theirs.get(different[0])} {ours.get(different[0])}"
        if different
        else None
    )


def _scheduler(kind: Any, config: Any) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    spec = FullAttentionSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=32, dtype=torch.float32
    )
    cache = KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["layer"], spec)])
    return kind(
        vllm_config=config,
        kv_cache_config=cache,
        structured_output_manager=Grammars(),
        block_size=BLOCK_TOKENS,
    )


def _counting(kind: Any) -> Any:
    """Return our scheduler, made to tell how many sequences of a step went the short way.

    Its outputs have the plain ones, too.
    """
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

    class Counting(kind):  # type: ignore[misc]
        short = 0

        def schedule(self) -> Any:
            self.short = 0
            output = super().schedule()
            output.short = self.short
            return output

        def _merge(self, decodes: Any, *arguments: Any) -> None:
            self.short = len(decodes.ids)
            super()._merge(decodes, *arguments)

        def update_from_output(self, scheduled: Any, ran: Any) -> Any:
            outputs = super().update_from_output(scheduled, ran)
            plain = [
                EngineCoreOutput(key, [token])
                for key, token in zip(*self.take_plain(), strict=True)
            ]
            if plain:
                outputs.setdefault(0, EngineCoreOutputs(outputs=[])).outputs += plain
            return outputs

    return Counting


def main(model: str, report_path: str) -> None:
    """Compare each kind of scheduler with vLLM's, as both runners use it."""
    from vllm import EngineArgs
    from vllm.utils.hashing import sha256
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    from vgate.engine.backends.vllm.lean_scheduler import LeanAsyncScheduler, LeanScheduler

    config = EngineArgs(
        model=model,
        max_model_len=256,
        max_num_seqs=SEQUENCES,
        max_num_batched_tokens=STEP_TOKENS,
        enable_chunked_prefill=True,
        # Depends on how many run.
        long_prefill_token_threshold=48,
        kv_cache_memory_bytes=1024**2,
        enforce_eager=True,
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = BLOCKS
    kv_cache_utils.init_none_hash(sha256)
    hasher = kv_cache_utils.get_request_block_hasher(BLOCK_TOKENS, sha256)
    short = short_hasher(hasher, sha256, BLOCK_TOKENS, kv_cache_utils.NONE_HASH)
    kinds = {
        "in turn": (Scheduler, LeanScheduler, 1),
        "ahead": (AsyncScheduler, LeanAsyncScheduler, 2),
    }
    report = {}
    for name, (theirs, ours, depth) in kinds.items():
        for newer_runner in (False, True):
            cases: Counter[str] = Counter()
            difference = None
            for seed in SEEDS:
                both = _scheduler(theirs, config), _scheduler(_counting(ours), config)
                for scheduler in both:
                    scheduler.use_v2_model_runner = newer_runner
                pair = Pair(both, depth, seed, (hasher, short))
                difference = difference or pair.run()
                cases += pair.cases
            report[f"{name}, {newer_runner=}"] = {"difference": difference, "cases": cases}
    Path(report_path).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
