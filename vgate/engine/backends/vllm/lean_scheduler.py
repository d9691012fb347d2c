"""vLLM's scheduler with a short way for the usual case: a sequence that needs its next token.

vLLM's own does for each token what any feature may need: a third of the processor's time of a step
on a fast device. A sequence that is past its prompt and uses none of these features takes the short
way here; all others take vLLM's, in the same step. Both change the same state in the same way, so a
sequence may change its way at any step; a test compares this scheduler with vLLM's. It rests on the
internals of the versions it was tested with, and is used with no other.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import RequestStatus
from vllm.version import __version__ as vllm_version

_TESTED_VERSIONS = ("0.32.0",)


def lean_scheduler(scheduler_config: Any) -> type[Any] | None:
    """Return the scheduler class for vLLM's configuration; None to leave the choice to vLLM."""
    version = vllm_version.partition("+")[0]
    if version not in _TESTED_VERSIONS or scheduler_config.scheduler_cls is not None:
        return None
    # It says of every class but its own that it may be slow.
    logging.getLogger("vllm.config.scheduler").addFilter(
        lambda record: "custom scheduler class" not in record.msg
    )
    return LeanAsyncScheduler if scheduler_config.async_scheduling else LeanScheduler


def plain_tokens(scheduler: Any) -> Callable[[], tuple[list[str], list[int]]]:
    """Return a scheduler's `take_plain`. Of vLLM's own scheduler all tokens are in its outputs."""
    take: Callable[[], tuple[list[str], list[int]]]
    take = getattr(scheduler, "take_plain", lambda: ([], []))
    return take


class _Sequence(NamedTuple):
    """What the short way needs of a request; the lists are those that vLLM appends to.

    Attributes:
        stop_ids: The tokens that end it; None if its tokens take vLLM's way back.
        limit: The length that ends it, with the prompt.
    """

    stop_ids: frozenset[int] | None
    limit: int
    tokens: list[int]
    output: list[int]


class _Decodes(NamedTuple):
    """The sequences at the front of the running ones that get one token: a row for each.

    Attributes:
        places: How many of the running ones they span; some get none.
        grammars: Whether one has a grammar, and whether one of these waits for its last token.
    """

    places: int
    ids: list[str]
    new_blocks: list[Any]
    computed: list[int]
    outputs: list[int]
    grammars: tuple[bool, bool]


class LeanScheduler(Scheduler):  # type: ignore[misc]
    """For steps whose tokens are known before the next one is scheduled."""

    # Whether a step is scheduled while the last one runs.
    _ahead = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take vLLM's arguments."""
        super().__init__(*arguments, **named)
        self.running: list[Any]
        self._sequences: dict[str, _Sequence] = {}
        self._plain: tuple[list[str], list[int]] = ([], [])
        self._aside = 0
        self._lean = _is_plain(self)
        # Models that only embed may have none.
        managers = self.kv_cache_manager.coordinator.single_type_managers
        self._blocks: Any = managers[0] if managers else None
        self._caches = self._lean and self.kv_cache_manager.enable_caching

    def add_request(self, request: Any) -> None:
        """Take a request, and remember what the short way needs of it."""
        super().add_request(request)
        params = request.sampling_params
        if not self._lean or params is None or request.resumable or request.mm_features:
            return
        plain = (
            request.structured_output_request is None
            and params.num_logprobs is None
            and params.prompt_logprobs is None
            and params.repetition_detection is None
            and request.client_index == 0
            and request.trace_headers is None
        )
        self._sequences[request.request_id] = _Sequence(
            frozenset((params.eos_token_id, *(params.stop_token_ids or ()))) if plain else None,
            min(self.max_model_len, request.num_prompt_tokens + request.max_tokens),
            request._all_token_ids,  # noqa: SLF001 - of the same class as what reads them in vLLM
            request._output_token_ids,  # noqa: SLF001
        )

    def _free_request(self, request: Any, *arguments: Any, **named: Any) -> Any:
        self._sequences.pop(request.request_id, None)
        return super()._free_request(request, *arguments, **named)

    def get_request_counts(self) -> tuple[int, int]:
        """Return how many run and wait."""
        running, waiting = super().get_request_counts()
        return running + self._aside, waiting

    def schedule(self, throttle_prefills: bool = False) -> Any:
        """Schedule a step: first the short way, as far as it goes, then vLLM's."""
        # vLLM's way takes at least one of the running, because it matters whether there is any.
        most = min(len(self.running), self.max_num_scheduled_tokens) - 1
        if not self._lean or throttle_prefills or most < 1 or self._pause_state:
            return super().schedule(throttle_prefills)
        decodes = self._decode(self.running[:most])
        places, scheduled = decodes.places, len(decodes.ids)
        first, self.running = self.running[:places], self.running[places:]
        self._aside = places
        self.max_num_active_reqs -= places
        self.max_num_scheduled_tokens -= scheduled
        known = self.prev_step_scheduled_req_ids.copy()
        try:
            output = super().schedule()
        finally:
            self._aside = 0
            self.max_num_active_reqs += places
            self.max_num_scheduled_tokens += scheduled
            self.running = first + self.running
        self._merge(decodes, known, output)
        return output

    def _decode(self, running: list[Any]) -> _Decodes:
        """Schedule the next token of the first sequences, up to one that can't go the short way."""
        sequences, block_size, ahead = self._sequences, self.block_size, self._ahead
        manager = self.kv_cache_manager
        allocate, free = self._blocks.allocate_new_blocks, manager.block_pool.get_num_free_blocks
        ids: list[str] = []
        new_blocks: list[Any] = []
        computed_counts: list[int] = []
        outputs: list[int] = []
        grammar = grammar_waits = False
        places = 0
        # This loop runs once for every token that the engine generates.
        for request in running:
            key = request.request_id
            sequence = sequences.get(key)
            if sequence is None or request.is_prefill_chunk:
                break
            stop_ids, limit, tokens, output = sequence
            length, computed = len(tokens), request.num_computed_tokens
            unknown = request.num_output_placeholders
            if length + unknown - computed != 1 or unknown > 1:
                break
            if unknown and length + 1 >= limit:
                # The token that ends it is being computed.
                places += 1
                continue
            if computed % block_size:
                new_blocks.append(None)
            elif free():
                blocks = allocate(key, computed + 1, computed + 1)
                new_blocks.append(([block.block_id for block in blocks],) if blocks else None)
            else:
                # vLLM's way makes room.
                break
            if not length % block_size:
                self._cache(request, key, length)
            places += 1
            ids.append(key)
            computed_counts.append(computed)
            outputs.append(len(output) + unknown)
            if stop_ids is None and request.structured_output_request is not None:
                grammar = True
                grammar_waits |= unknown > 0
            request.num_computed_tokens = computed + 1
            request.num_in_flight_tokens += 1
            if ahead:
                request.num_output_placeholders = unknown + 1
        return _Decodes(
            places, ids, new_blocks, computed_counts, outputs, (grammar, ahead and grammar_waits)
        )

    def _merge(self, decodes: _Decodes, known: set[str], output: Any) -> None:
        """Put what went the short way before vLLM's, as if it had scheduled all."""
        ids, cached = decodes.ids, output.scheduled_cached_reqs
        if not self.use_v2_model_runner:
            if not known.issuperset(ids):
                missed = {
                    key: self._sequences[key].tokens.copy() for key in ids if key not in known
                }
                cached.all_token_ids |= missed
            self.prev_step_scheduled_req_ids.update(ids)
        scheduled = dict.fromkeys(ids, 1)
        scheduled.update(output.num_scheduled_tokens)
        output.num_scheduled_tokens = scheduled
        output.total_num_scheduled_tokens += len(ids)
        cached.req_ids = ids + cached.req_ids
        cached.new_block_ids = decodes.new_blocks + cached.new_block_ids
        cached.num_computed_tokens = decodes.computed + cached.num_computed_tokens
        cached.num_output_tokens = decodes.outputs + cached.num_output_tokens
        output.has_structured_output_requests |= decodes.grammars[0]
        output.pending_structured_output_tokens |= decodes.grammars[1]

    def update_from_output(self, scheduled: Any, ran: Any) -> dict[int, Any]:
        """Take a step's tokens; return the outputs by client, without those of `take_plain`."""
        if not self._lean or ran.num_nans_in_logits or not ran.sampled_token_ids:
            outputs: dict[int, Any] = super().update_from_output(scheduled, ran)
            return outputs
        named = scheduled.num_scheduled_tokens
        # vLLM goes through those that are named here, and through what does not belong to one.
        scheduled.num_scheduled_tokens = self._take(named, ran)
        try:
            outputs = super().update_from_output(scheduled, ran)
        finally:
            scheduled.num_scheduled_tokens = named
        return outputs

    def take_plain(self) -> tuple[list[str], list[int]]:
        """Return the tokens since the last call that only continue their sequence.

        These are two columns: the ids of the requests, and the token of each. Such tokens are left
        out of the outputs, as an object for each would only be made to be read once.
        """
        plain, self._plain = self._plain, ([], [])
        return plain

    def _take(self, scheduled: dict[str, int], ran: Any) -> dict[str, int]:
        """Take the tokens that only continue their sequence; return the other requests' counts."""
        sequences, requests, ahead = self._sequences, self.requests, self._ahead
        sampled, places, block_size = ran.sampled_token_ids, ran.req_id_to_index, self.block_size
        keys, plain = self._plain
        rest: dict[str, int] = {}
        running = RequestStatus.RUNNING
        # This loop runs once for every token that the engine generates.
        for key, count in scheduled.items():
            sequence = sequences.get(key)
            if sequence is None or count != 1:
                rest[key] = count
                continue
            stop_ids, limit, tokens, output = sequence
            request = requests[key]
            token_ids = sampled[places[key]]
            length = len(tokens) + 1
            if (
                stop_ids is None
                or len(token_ids) != 1
                or token_ids[0] in stop_ids
                or length >= limit
                or request.prefill_stats is not None
                or request.status is not running
                or request.num_stale_output_tokens
            ):
                rest[key] = count
                continue
            token = token_ids[0]
            tokens.append(token)
            output.append(token)
            keys.append(key)
            plain.append(token)
            request.num_in_flight_tokens -= 1
            if not length % block_size:
                request.update_block_hashes()
            if ahead:
                request.num_output_placeholders -= 1
                known = request.num_computed_tokens - request.num_output_placeholders
                if not known % block_size:
                    self._cache(request, key, known)
        return rest

    def _cache(self, request: Any, key: str, known: int) -> None:
        """Put a sequence's full blocks among the first `known` tokens into the prefix cache."""
        cached, full = self._blocks.num_cached_block, known // self.block_size
        if self._caches and (done := cached.get(key, 0)) < full:
            # Looked up each time, because `follow_pool` replaces it.
            self.kv_cache_manager.block_pool.cache_full_blocks(
                request,
                self._blocks.req_to_blocks[key],
                done,
                full,
                self.block_size,
                self._blocks.kv_cache_group_id,
            )
            cached[key] = full


def _is_plain(scheduler: Any) -> bool:
    """Return whether a scheduler uses only what the short way knows."""
    managers = scheduler.kv_cache_manager.coordinator.single_type_managers
    config = scheduler.vllm_config
    return (
        scheduler.policy == SchedulingPolicy.FCFS
        and scheduler.connector is scheduler.ec_connector is scheduler.aux_output_connector is None
        and scheduler.lora_config is config.speculative_config is None
        and scheduler.num_spec_tokens == scheduler.num_lookahead_tokens == 0
        and scheduler.num_sampled_tokens_per_step == 1
        and config.parallel_config.pipeline_parallel_size == 1
        and scheduler.spec_decode_metrics_level == "none"
        and scheduler.max_num_scheduled_tokens <= config.scheduler_config.max_num_batched_tokens
        and not scheduler.is_encoder_decoder
        and not scheduler.defer_block_free
        and not scheduler.return_sampling_mask
        and not scheduler.log_stats
        and [type(manager) for manager in managers] == [FullAttentionManager]
        and managers[0].block_size == scheduler.hash_block_size == scheduler.block_size
        and managers[0].kv_cache_spec.prefix_cacheable
    )


class LeanAsyncScheduler(LeanScheduler, AsyncScheduler):  # type: ignore[misc]
    """For steps that are scheduled while the last one runs."""

    _ahead = True
