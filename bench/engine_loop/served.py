"""The other side: what runs in the engine process, listening on the endpoint of its settings."""

import gc
import sys
import threading
import time

import msgspec

from bench.engine_loop.child import Settings, answers
from vgate import log as logs
from vgate.engine.backends.vllm.backend import VLLMBackend
from vgate.engine.loop import EngineLoop
from vgate.engine.scheduler import BatchScheduler, Limits
from vgate.wire.sockets import Router

_MS_PER_S = 1000


def main() -> None:
    """Load the model and serve until the input ends."""
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    out = answers()
    logs.configure("engine", level="warning", json_format=False)
    config = settings.config()
    backend = VLLMBackend(config, lambda _phase: None)
    scheduler = BatchScheduler(
        Limits(
            max_num_seqs=backend.model.max_num_seqs,
            kv_cache_tokens=backend.model.kv_cache_tokens,
            max_queue_size=config.batch.max_queue_size,
            max_wait_s=config.batch.max_wait_time_ms / _MS_PER_S,
        )
    )
    router = Router(settings.endpoint)
    loop = EngineLoop(backend, scheduler, router, clock=time.monotonic)

    def stop_at_end_of_input() -> None:
        sys.stdin.read()
        loop.stop()

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    gc.collect()
    gc.freeze()
    print("ready", file=out)
    loop.run()
    router.close()
    backend.shutdown()


if __name__ == "__main__":
    main()
