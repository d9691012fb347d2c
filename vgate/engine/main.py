"""The engine process: connects backend, scheduler, loop, sockets and launcher."""

import gc
import signal
import time

from vgate import log as logs
from vgate.config import Config, Runtime
from vgate.engine.backends import load_backend
from vgate.engine.backends.base import Backend, BackendError
from vgate.engine.control_link import Control, ControlLink
from vgate.engine.fill.once import Filled, fill_once
from vgate.engine.forecast.limits import Limits
from vgate.engine.loop import EngineLoop
from vgate.engine.memory import MOST_REDUCTIONS, Memory, is_out_of_memory
from vgate.engine.scheduler import BatchScheduler
from vgate.engine.tenants import reserved_seqs
from vgate.log import Log
from vgate.sizing.room import gib, host_memory
from vgate.wire.curve import ServerKeys
from vgate.wire.link_keys import server_keys
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import has_chat_template
from vgate.wire.sockets import Router, is_tcp

# sysexits.h: EX_CONFIG if a restart would fail too, EX_SOFTWARE if it may help.
EXIT_PERMANENT = 78
EXIT_CRASHED = 70

_MS_PER_S = 1000
# vLLM schedules a step while another computes, and a request arrives during that.
_START_STEPS = 2

log = Log("vgate.engine")


def run(runtime: Runtime, engine: int) -> int:
    """Run an engine, by its number in the runtime; return the exit status.

    On SIGTERM it takes nothing new, finishes its requests within `server.drain_timeout_s`, and
    ends; on a second one, and when the launcher dies, it ends at once.
    """
    settings, name = runtime.config.logging, runtime.engine_name(engine)
    attended = bool(runtime.log_file)
    logs.configure(name, level=settings.level, json_format=settings.json_format, attended=attended)
    link = ControlLink(runtime)
    memory = Memory(runtime, engine)
    backend = None
    try:
        if memory.hopeless:
            return _failed(link, _killed(memory.config), permanent=True)
        if memory.killed:
            link.phase("starting smaller, because the kernel killed it for lack of memory")
        backend = load_backend(runtime.backend, memory.config, link.phase, memory.allowance)
        filled = fill_once(backend, memory, link.progress)
        return _serve(memory, runtime.engines[engine].address, backend, link, filled)
    except BackendError as error:
        log.error("engine cannot start", reason=error)
        return _no_start(link, memory, error)
    except Exception as error:
        if is_out_of_memory(error):
            text = f"there is too little memory to start {memory.config.model.model_id}: {error}"
            return _no_start(link, memory, BackendError(text, permanent=False, lacks="memory"))
        # Nobody knows whether it would come again.
        log.exception("engine crashed while it started")
        return _failed(link, f"{type(error).__name__}: {error}", permanent=False)
    finally:
        memory.end()
        if backend is not None:
            backend.shutdown()
        link.close()


def _no_start(link: ControlLink, memory: Memory, error: BackendError) -> int:
    """Report why the backend did not start, and whether it is tried with less."""
    tried = memory.learned.tries
    if memory.tries_less(error.lacks, str(error)):
        count = f"{memory.learned.tries} of {MOST_REDUCTIONS}"
        log.error("it starts again smaller", attempt=count)
        link.failed(f"{error} It starts again smaller ({count}).", permanent=False, tells=True)
        return EXIT_CRASHED
    if tried:
        return _failed(link, f"{error} Smaller starts failed, too.", permanent=True)
    return _failed(link, str(error), permanent=error.permanent and not memory.take_back())


def _killed(config: Config) -> str:
    return (
        f"the kernel killed each start of {config.model.model_id}, because memory was out, smaller "
        f"ones too; {gib(host_memory())} are available: end other programs, give the container "
        "more, lower model.max_model_len, or serve a smaller model"
    )


def _failed(link: ControlLink, reason: str, *, permanent: bool) -> int:
    """Report why the engine does not start; return its exit status."""
    link.failed(reason, permanent=permanent)
    return EXIT_PERMANENT if permanent else EXIT_CRASHED


def keys_of(config: Config, endpoint: str) -> ServerKeys | None:
    """Return the keys of an engine that frontends of other hosts reach."""
    if config.engine_link.plaintext or not is_tcp(endpoint):
        return None
    return server_keys(config.link_keys)


def _serve(
    memory: Memory, endpoint: str, backend: Backend, link: ControlLink, filled: Filled
) -> int:
    most_bytes = memory.config.engine_link.max_message_bytes
    router = Router(endpoint, keys_of(memory.config, endpoint), most_bytes)
    control = Control(link, memory.config.server.drain_timeout_s)
    # Everything loaded so far stays until the end, so the collector can skip it.
    gc.collect()
    gc.freeze()
    memory.serves(backend.chosen)
    loop, scheduler = _loop(memory, backend, router, control)
    try:
        while True:
            _tell_ready(memory, backend, link, filled)
            loop.run()
            if not control.sleeps:
                loop.end("it was stopped")
                return 0
            # To frontends it is the same: they connect again, and are heard once it is awake.
            loop.end("its model is unloaded")
            backend.abort(list(scheduler.running))
            if not backend.sleep():
                return 0
            # One that is killed in its sleep had little memory, and was not too large.
            memory.end()
            if not control.rest():
                return 0
            link.phase("waking the model")
            backend.wake()
            memory.serves(backend.chosen)
            loop, scheduler = _loop(memory, backend, router, control)
    except Exception as error:
        # The model's state is unknown now, so the process ends.
        log.exception("engine crashed")
        reason = told = f"{type(error).__name__}: {error}"
        if memory.explains(error):
            told = "it ran out of memory"
        loop.end(told)
        link.failed(reason, permanent=False)
        return EXIT_CRASHED
    finally:
        router.close()


def _limits(config: Config, model: ModelInfo) -> Limits:
    batch = config.batch
    return Limits(
        max_num_seqs=model.max_num_seqs,
        # vLLM gives its first block to no request.
        kv_cache_tokens=model.kv_cache_tokens - model.kv_block_tokens,
        kv_block_tokens=model.kv_block_tokens,
        start_steps=_START_STEPS,
        max_batch_size=batch.max_batch_size,
        reserved_seqs=reserved_seqs(model.max_num_seqs),
        max_queue_size=batch.max_queue_size,
        max_wait_s=batch.max_wait_time_ms / _MS_PER_S,
    )


def _loop(
    memory: Memory, backend: Backend, router: Router, control: Control
) -> tuple[EngineLoop, BatchScheduler]:
    """Return a loop, which SIGTERM ends, and its scheduler."""
    scheduler = BatchScheduler(_limits(memory.config, backend.model))
    loop = EngineLoop(
        backend, scheduler, router, clock=time.monotonic, on_beat=lambda: control.beat(loop)
    )
    loop.stats.memory_reductions = memory.learned.reductions
    signal.signal(signal.SIGTERM, lambda _signal, _frame: control.terminate(loop))
    return loop, scheduler


def _tell_ready(memory: Memory, backend: Backend, link: ControlLink, filled: Filled) -> None:
    model, told = backend.model, f"{memory.summary}{filled.summary}"
    link.ready(
        f"{model.name} ({model.backend}): context {model.max_model_len} tokens, "
        f"batch {model.max_num_seqs}, KV cache {model.kv_cache_tokens} tokens"
        + (f"; chosen: {backend.chosen}" if backend.chosen else "")
        + told,
        model,
        slowest_step_s=filled.slowest_step_s,
        chosen=f"{backend.chosen}{told}".removeprefix(", "),
        chat=has_chat_template(backend.files, memory.config.model.chat_template),
    )
