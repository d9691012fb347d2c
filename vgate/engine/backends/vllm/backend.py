"""The vLLM backend, on vLLM's in-process EngineCore.

EngineCore is internal API of the pinned vLLM version; the backend contract suite runs this file
against it. Requests pass vLLM's InputProcessor first: an invalid one given to the core would raise
inside a step and fail the whole batch. (On a tiny model a step with 64 sequences takes 1.98 ms here
and 3.21 ms through LLMEngine.)
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor

from vgate.config import Config
from vgate.engine.backends.base import (
    Allowance,
    BackendCounts,
    BackendError,
    Facts,
    Output,
    Outputs,
    ReportPhase,
    WorkerDiedError,
)
from vgate.engine.backends.checks import check
from vgate.engine.backends.prompt_logprobs import (
    bound_prompt_logprobs,
    check_prompt_logprobs,
    longest_prompt,
)
from vgate.engine.backends.vllm.cards.draft_counts import DraftCounts
from vgate.engine.backends.vllm.cards.drafting import control_drafting
from vgate.engine.backends.vllm.constraints import Constraints
from vgate.engine.backends.vllm.exact_grammars import exact_grammars
from vgate.engine.backends.vllm.failures import (
    WORKER_DIED,
    explanation,
    start_error,
    worker_failure,
)
from vgate.engine.backends.vllm.files import read_adapters
from vgate.engine.backends.vllm.grammars import time_grammars
from vgate.engine.backends.vllm.harmony import harmony_tokens
from vgate.engine.backends.vllm.lean_scheduler import plain_tokens
from vgate.engine.backends.vllm.outputs import Running, to_output, too_slow
from vgate.engine.backends.vllm.parameters import Parameters
from vgate.engine.backends.vllm.reasoning import reasoning_marks
from vgate.engine.backends.vllm.setup import (
    engine_config,
    gpu_memory,
    model_facts,
    reporting_executor,
)
from vgate.engine.backends.vllm.sizing.sleeping import SleepMode
from vgate.engine.backends.vllm.step_budget import steer, time_steps
from vgate.engine.backends.vllm.text_files import text_files
from vgate.engine.backends.worker_log import cause
from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.blocks.vllm_hashes import use_short_hasher
from vgate.engine.blocks.vllm_pool import follow_pool
from vgate.engine.request import Request, RequestError
from vgate.engine.served_files import describe_model, fingerprint
from vgate.engine.tenants import reserved_seqs
from vgate.log import Log
from vgate.wire.stats import Gpu

log = Log("vgate.engine.vllm")


class VLLMBackend:
    """Loads the configured model, whose files are in `directory`, and runs it."""

    def __init__(
        self, config: Config, directory: Path, report_phase: ReportPhase, allowance: Allowance
    ) -> None:
        self._worker_died = False
        self._running: dict[str, Running] = {}
        # Grammars are checked and compiled here, because that takes up to seconds. One thread,
        # because they share what the first one creates.
        self._grammars = ThreadPoolExecutor(1, "grammars")
        self._preparing: dict[str, tuple[Request, Future[Any]]] = {}
        # Keys of running requests whose grammar has taken too long.
        self._too_slow: set[str] = set()
        self._preemptions = self._prefix_queries = self._prefix_hits = 0
        vllm_config, sizing = engine_config(config, directory, report_phase, allowance)
        config = sizing.config
        max_num_seqs = vllm_config.scheduler_config.max_num_seqs
        # The CUDA graphs that vLLM has chosen for `max_num_seqs` reach to twice as many.
        vllm_config.scheduler_config.max_num_seqs += reserved_seqs(max_num_seqs)
        adapters = [
            LoRARequest(adapter.name, number, adapter.directory)
            for number, adapter in enumerate(read_adapters(config.model), start=1)
        ]
        report_phase("reading the tokenizer")
        # Before the weights, because it may be broken.
        self.files = text_files(vllm_config.model_config)
        try:
            self._load(vllm_config, adapters, report_phase)
        except Exception as error:
            reason = cause(error)
            if explanation(reason, config) is None:
                log.exception("vLLM could not start")
            raise start_error(reason, config) from error
        self._gpus = gpu_memory(vllm_config.parallel_config.world_size)
        self._tasks = self._core.get_supported_tasks()
        if config.model.task not in self._tasks:
            raise BackendError(
                f"model {config.model.model_id} does not support the task {config.model.task} "
                f"(supported: {', '.join(self._tasks)})"
            )
        self._budget = steer(self._core.scheduler, vllm_config, config.batch, time.monotonic)
        control_drafting(self._core.scheduler, config.model, time.monotonic)
        self._drafts = DraftCounts(self._core.scheduler)
        self._take_plain = plain_tokens(self._core.scheduler)
        grammars = exact_grammars(vllm_config)
        self._parameters = Parameters(vllm_config, adapters, exact=grammars is not None)
        marks, harmony = reasoning_marks(config.model, vllm_config), harmony_tokens(vllm_config)
        self._constraints = Constraints(grammars, marks, harmony)
        time_grammars(
            self._core.structured_output_manager, self._too_slow.add, self._constraints.grammar
        )
        facts = model_facts(vllm_config, max_num_seqs, config.model.task)
        in_parts: bool = vllm_config.scheduler_config.enable_chunked_prefill
        self._longest = longest_prompt(facts["vocab_size"], in_parts=in_parts)
        self.model = describe_model(config, self.files, fingerprint=fingerprint(directory), **facts)
        self.chosen = sizing.told(self.model.max_model_len, max_num_seqs)
        self._sleep_mode = SleepMode(self._core, vllm_config, directory)
        self._blocks: CachedBlocks | None = None

    def _load(self, vllm_config: Any, adapters: list[Any], report_phase: ReportPhase) -> None:
        self._core = EngineCore(
            vllm_config,
            reporting_executor(vllm_config, report_phase),
            # vLLM's per-step statistics are not used.
            log_stats=False,
            executor_fail_callback=self._on_worker_death,
        )
        if not vllm_config.parallel_config.use_ray:
            vocab_size = vllm_config.model_config.get_vocab_size()
            self._core.model_executor.collective_rpc(bound_prompt_logprobs, args=(vocab_size,))
        use_short_hasher(self._core)
        self._input_processor = InputProcessor(vllm_config)
        # vLLM would ask the tokenizer for it with every request.
        eos = self._input_processor.renderer.get_eos_token_id()
        self._input_processor.renderer.get_eos_token_id = lambda: eos
        for adapter in adapters:
            # A broken adapter fails the start instead of a step.
            report_phase(f"loading the adapter {adapter.lora_name}")
            self._core.add_lora(adapter)

    def add(self, request: Request) -> None:
        """Start a sequence; one with a grammar starts when that is compiled."""
        if request.sampling is not None:
            check(request.sampling, request.options, self.model, len(request.prompt))
            check_prompt_logprobs(request, self._longest)
        if request.options.structured is not None:
            preparing = self._grammars.submit(self._prepare, request)
            self._preparing[request.key] = request, preparing
        else:
            self._start(request, self._prepare(request))

    def _prepare(self, request: Request) -> Any:
        """Let vLLM check a request; return it as the core takes it."""
        options, tokens = request.options, request.prompt
        if request.continued:
            tokens = tokens + request.continued
        try:
            if options.structured is not None:
                self._constraints.compile(request)
            prepared = self._input_processor.process_inputs(
                request.key,
                tokens_input(tokens, cache_salt=options.cache_salt or None),
                self._parameters.for_request(request),
                self._tasks,
                lora_request=self._parameters.adapter(options.adapter),
            )
            return self._core.preprocess_add_request(prepared)
        except RequestError:
            raise
        except self._parameters.refusals as error:
            self._constraints.forget(request.key)
            raise self._parameters.refusal(error, request) from None
        except Exception as error:
            # The scheduler does not have it yet, so no other request is affected.
            log.exception("vLLM could not take a request", key=request.key)
            reason = f"vLLM could not take the request: {type(error).__name__}"
            raise RequestError("internal_error", reason) from error

    def _start(self, request: Request, prepared: Any) -> None:
        self._core.add_request(*prepared)
        self._running[request.key] = Running(request, prepared[0])

    def _start_prepared(self) -> list[Output]:
        """Start the requests whose grammar is compiled; return the failures of the others."""
        refused = []
        for key, (request, preparing) in list(self._preparing.items()):
            if not preparing.done():
                continue
            del self._preparing[key]
            try:
                self._start(request, preparing.result())
            except RequestError as error:
                refused.append(Output(key, [], None, None, error=error))
        return refused

    def abort(self, keys: list[str]) -> None:
        """Stop sequences."""
        self._core.abort_requests(keys)
        for key in keys:
            self._forget(key)
            if (waiting := self._preparing.pop(key, None)) is not None:
                waiting[1].cancel()

    def has_work(self) -> bool:
        """Whether a sequence runs, waits for its grammar or has yet to be completed."""
        core = self._core
        # A batch in flight (async scheduling, pipeline parallelism) has to be collected as well,
        # and the next step reports the death of a worker process.
        return (
            core.scheduler.has_requests()
            or bool(core.batch_queue)
            or bool(self._preparing)
            or self._worker_died
        )

    def step(self) -> Outputs | None:
        """Run the model once."""
        if self._worker_died:
            raise WorkerDiedError(WORKER_DIED)
        outputs = self._start_prepared() if self._preparing else []
        try:
            by_client, executed = self._core.step_fn()
        except Exception as error:
            if (failure := worker_failure(self._core.model_executor)) is None:
                raise
            raise failure from error
        self._core.post_step(executed)
        keys, tokens = self._take_plain()
        # With vLLM's own scheduler most of these are plain tokens too. To call `to_output` for each
        # would cost as much as everything else here.
        outputs += [
            Output(output.request_id, output.new_token_ids, None, None)
            if output.finish_reason is None
            and output.prefill_stats is None
            and output.new_logprobs is None
            and output.new_prompt_logprobs_tensors is None
            else self._output(output)
            for of_client in (by_client or {}).values()
            for output in of_client.outputs
        ]
        if self._too_slow:
            outputs = self._without_slow(outputs)
        # Without a run of the model vLLM returns only bookkeeping, so outputs mean progress.
        return Outputs(keys, tokens, outputs) if keys or outputs or executed else None

    def _without_slow(self, outputs: list[Output]) -> list[Output]:
        """End the sequences whose grammar takes too long; return all outputs."""
        ended = [too_slow(self._running[key]) for key in self._too_slow if key in self._running]
        self._too_slow.clear()
        keys = [output.key for output in ended]
        self.abort(keys)
        return [output for output in outputs if output.key not in keys] + ended

    def kv_cache_usage(self) -> float:
        """Return the fraction of KV blocks in use."""
        usage: float = self._core.scheduler.get_kv_cache_usage()
        return usage

    def counts(self) -> BackendCounts:
        """Return the counts; vLLM keeps the preemptions with each request."""
        running = sum(one.counted.num_preemptions for one in self._running.values())
        return BackendCounts(
            self._preemptions + running,
            self._prefix_queries,
            self._prefix_hits,
            self._drafts.drafted,
            self._drafts.accepted,
        )

    def forget(self) -> None:
        """Empty the prefix cache and begin to count anew."""
        self._core.reset_prefix_cache()
        self._preemptions = self._prefix_queries = self._prefix_hits = 0
        self._drafts.forget()

    def follow_blocks(self) -> CachedBlocks | None:
        """Return the blocks of vLLM's pool; from now on the speed of prompts is measured too."""
        if self._budget is None:
            self._budget = time_steps(self._core.scheduler, time.monotonic)
        if self._blocks is None:
            self._blocks = follow_pool(self._core.scheduler.kv_cache_manager)
        return self._blocks

    def prefill_tokens_per_s(self) -> float:
        """Return how fast prompts are computed."""
        return 0.0 if self._budget is None else self._budget.tokens_per_s

    def gpus(self) -> list[Gpu]:
        """Return the memory of the GPUs."""
        return self._gpus.now()

    def sleep(self) -> bool:
        """Free the GPU's memory, where vLLM's sleep mode is on."""
        self.forget()
        return self._sleep_mode.begin()

    def wake(self) -> None:
        """Take the memory again."""
        self._sleep_mode.end()

    def shutdown(self) -> None:
        """End the workers. The process ends next, which frees everything else."""
        self._grammars.shutdown(wait=False, cancel_futures=True)
        self._core.model_executor.shutdown()

    def _on_worker_death(self) -> None:
        """Remember that a worker process died. Called from one of vLLM's threads."""
        self._worker_died = True

    def _forget(self, key: str) -> Running | None:
        running = self._running.pop(key, None)
        if running is not None:
            self._preemptions += running.counted.num_preemptions
        return running

    def _output(self, output: Any) -> Output:
        """Translate vLLM's output of one step for one request."""
        key, reason, cached_tokens = output.request_id, output.finish_reason, 0
        running = self._running.get(key) if reason is None else self._forget(key)
        if (stats := output.prefill_stats) is not None:
            cached_tokens = stats.num_cached_tokens
            self._prefix_queries += stats.num_prompt_tokens
            self._prefix_hits += cached_tokens
        elif reason is None:
            return to_output(output, running, None)
        preemptions = running.counted.num_preemptions if running is not None else 0
        return to_output(output, running, Facts(cached_tokens, preemptions))
