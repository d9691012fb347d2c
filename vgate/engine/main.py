"""The engine process: connects backend, scheduler, loop, sockets and launcher."""

import gc
import signal
import time

from vgate import log as logs
from vgate.config import Runtime
from vgate.engine.backends import load_backend
from vgate.engine.backends.base import Backend, BackendError
from vgate.engine.control_link import ControlLink
from vgate.engine.loop import EngineLoop
from vgate.engine.memory import Memory, is_out_of_memory
from vgate.engine.scheduler import BatchScheduler, Limits
from vgate.engine.tenants import reserved_seqs
from vgate.log import Log
from vgate.wire.sockets import Router

# sysexits.h: EX_CONFIG if a restart would fail too, EX_SOFTWARE if it may help.
EXIT_PERMANENT = 78
EXIT_CRASHED = 70

_MS_PER_S = 1000

log = Log("vgate.engine")


def run(runtime: Runtime, engine: int) -> int:
    """Run an engine, by its number in the runtime, until SIGTERM; return the exit status."""
    settings, name = runtime.config.logging, runtime.engine_name(engine)
    logs.configure(name, level=settings.level, json_format=settings.json_format)
    link = ControlLink(runtime)
    memory = Memory(runtime, engine)
    try:
        backend = load_backend(runtime.backend, memory.config, link.phase)
    except BackendError as error:
        log.error("engine cannot start", reason=error)
        memory.end()
        permanent = error.permanent and not memory.take_back()
        link.failed(str(error), permanent=permanent)
        link.close()
        return EXIT_PERMANENT if permanent else EXIT_CRASHED
    except Exception as error:
        # Nobody knows whether it would come again.
        log.exception("engine crashed while it started")
        memory.end()
        link.failed(f"{type(error).__name__}: {error}", permanent=False)
        link.close()
        return EXIT_CRASHED
    try:
        return _serve(memory, runtime.engines[engine].address, backend, link)
    finally:
        memory.end()
        backend.shutdown()
        link.close()


def _serve(memory: Memory, endpoint: str, backend: Backend, link: ControlLink) -> int:
    batch, model = memory.config.batch, backend.model
    scheduler = BatchScheduler(
        Limits(
            max_num_seqs=model.max_num_seqs,
            kv_cache_tokens=model.kv_cache_tokens,
            kv_block_tokens=model.kv_block_tokens,
            max_batch_size=batch.max_batch_size,
            reserved_seqs=reserved_seqs(model.max_num_seqs),
            max_queue_size=batch.max_queue_size,
            max_wait_s=batch.max_wait_time_ms / _MS_PER_S,
        )
    )
    router = Router(endpoint)

    def beat() -> None:
        link.beat(loop.patience_s)
        # Here and not in each turn of the loop: a drain can wait for a heartbeat.
        for drain in link.received():
            loop.drain(drain.timeout_s)

    loop = EngineLoop(backend, scheduler, router, clock=time.monotonic, on_beat=beat)
    loop.stats.memory_reductions = memory.learned.reductions

    signal.signal(signal.SIGTERM, lambda _signal, _frame: loop.stop())
    # Everything loaded so far stays until the end, so the collector can skip it.
    gc.collect()
    gc.freeze()
    link.ready(
        f"{model.name} ({model.backend}): context {model.max_model_len} tokens, "
        f"batch {model.max_num_seqs}, KV cache {model.kv_cache_tokens} tokens"
        f"{memory.summary}"
    )
    try:
        loop.run()
    except Exception as error:
        # The model's state is unknown now, so the process ends.
        log.exception("engine crashed")
        reason = told = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            memory.ran_out(reason)
            told = "it ran out of memory"
        loop.end(told)
        link.failed(reason, permanent=False)
        return EXIT_CRASHED
    else:
        loop.end("it was stopped")
        return 0
    finally:
        router.close()
