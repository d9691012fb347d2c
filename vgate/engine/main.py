"""The engine process: wires backend, scheduler, loop, sockets and the launcher's link together."""

from __future__ import annotations

import gc
import os
import signal
import time
from types import FrameType

from vgate import log as logs
from vgate.config import Runtime
from vgate.engine.backends import REGISTRY
from vgate.engine.backends.base import Backend, BackendError
from vgate.engine.loop import Beat, EngineLoop
from vgate.engine.scheduler import BatchScheduler, Limits
from vgate.engine.time_slice import lengthen_slice
from vgate.log import Log
from vgate.wire.codec import encode
from vgate.wire.control import EngineBeat, EngineFailed, EnginePhase, EngineReady, ToLauncher
from vgate.wire.sockets import Dealer, Router, flush_dealers

# sysexits.h: EX_CONFIG for what a restart can't mend, EX_SOFTWARE for what it may.
EXIT_PERMANENT = 78
EXIT_CRASHED = 70

_MS_PER_S = 1000

log = Log("vgate.engine")


class LauncherLink:
    """Tells the launcher how the engine is. ZeroMQ's own thread sends while the loop is busy."""

    def __init__(self, runtime: Runtime) -> None:
        self._pid = os.getpid()
        self._dealer = Dealer(runtime.control_endpoint, "engine")

    def phase(self, phase: str) -> None:
        """Report a phase of the start."""
        log.info("engine starting", phase=phase)
        self._send(EnginePhase(self._pid, phase))

    def ready(self, summary: str) -> None:
        """Report that the engine serves."""
        self._send(EngineReady(self._pid, summary))

    def beat(self, beat: Beat) -> None:
        """Report that the loop turns."""
        self._send(EngineBeat(self._pid, beat.running, beat.waiting))

    def failed(self, reason: str, *, permanent: bool) -> None:
        """Report why the process ends."""
        self._send(EngineFailed(self._pid, reason, permanent))

    def close(self) -> None:
        """Close the link, handing over what was sent: the process may end right after it."""
        self._dealer.close()
        flush_dealers()

    def _send(self, message: ToLauncher) -> None:
        self._dealer.send(encode(message))


def run(runtime: Runtime, engine: int) -> int:
    """Run an engine until it is told to stop; return the exit status.

    Args:
        runtime: The instance's settings.
        engine: The engine's number in `runtime.engines`.
    """
    settings = runtime.config.logging
    name = runtime.engine_name(engine)
    logs.configure(name, level=settings.level, json_format=settings.json_format)
    link = LauncherLink(runtime)
    try:
        backend = REGISTRY[runtime.backend](runtime.engine_config(engine), link.phase)
    except BackendError as error:
        log.error("engine cannot start", reason=error)
        link.failed(str(error), permanent=error.permanent)
        link.close()
        return EXIT_PERMANENT if error.permanent else EXIT_CRASHED
    try:
        return _serve(runtime, runtime.engines[engine].address, backend, link)
    finally:
        backend.shutdown()
        link.close()


def _serve(runtime: Runtime, endpoint: str, backend: Backend, link: LauncherLink) -> int:
    batch = runtime.config.batch
    scheduler = BatchScheduler(
        Limits(
            max_num_seqs=backend.model.max_num_seqs,
            kv_cache_tokens=backend.model.kv_cache_tokens,
            kv_block_tokens=backend.model.kv_block_tokens,
            max_queue_size=batch.max_queue_size,
            max_wait_s=batch.max_wait_time_ms / _MS_PER_S,
        )
    )
    router = Router(endpoint)
    loop = EngineLoop(backend, scheduler, router, clock=time.monotonic, on_beat=link.beat)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        loop.stop()

    signal.signal(signal.SIGTERM, stop)
    # What was loaded stays for good: the collector needn't look at it again.
    gc.collect()
    gc.freeze()
    # Not the threads that are there by now, such as ZeroMQ's, which are to get in between.
    lengthen_slice()
    link.ready(_summary(backend))
    try:
        loop.run()
    except Exception as error:
        # The model's state is unknown now. Every frontend hears of it before the process ends.
        log.exception("engine crashed")
        reason = f"{type(error).__name__}: {error}"
        loop.end(reason)
        link.failed(reason, permanent=False)
        return EXIT_CRASHED
    else:
        loop.end("it was told to stop")
        return 0
    finally:
        router.close()


def _summary(backend: Backend) -> str:
    model = backend.model
    return (
        f"{model.names[0]} ({model.backend}): context {model.max_model_len} tokens, "
        f"batch {model.max_num_seqs}, KV cache {model.kv_cache_tokens} tokens"
    )
