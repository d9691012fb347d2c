"""A frontend process: granian's RSGI server around `vgate.frontend.app`.

The launcher starts one process for each worker and gives it a listening socket. All of these have
the same port (SO_REUSEPORT) and the kernel spreads connections over them. granian runs embedded in
our loop, so that the launcher supervises each worker separately.
"""

import asyncio
import ctypes
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from granian.constants import HTTPModes, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from prometheus_client import values

from vgate import log as logs
from vgate.config import Runtime
from vgate.config.runtime import MOST_CONNECTIONS
from vgate.config.schema import Tls
from vgate.frontend.garbage import Garbage
from vgate.frontend.listening import Leaving, Server
from vgate.frontend.observe import count_files
from vgate.frontend.observe.gathered_counts import Gatherer

# Headers as long as HTTP/1.1's. The interval is in milliseconds, the timeout in seconds.
_HTTP2 = HTTP2Settings(
    max_headers_size=HTTP1Settings.max_buffer_size,
    keep_alive_interval=30_000,
    keep_alive_timeout=20,
)
# A parameter of glibc's mallopt, and with which value it begins.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 128 * 1024

log = logs.Log("vgate.frontend")


def run(runtime: Runtime, worker: int, listener: int) -> int:
    """Serve on a listening socket until SIGTERM or a hand-over; return the exit status."""
    keep_large_objects_apart()
    settings = runtime.config.logging
    logs.configure(f"frontend-{worker}", level=settings.level, json_format=settings.json_format)
    # Both are read when the metrics are imported, so the application is imported after them.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime.directory("metrics"))
    count_files.use()
    counts = Gatherer(worker)
    values.ValueClass = counts.value
    # Frontends scale by processes; a thread pool in each would only compete for the cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from vgate.frontend.app import App

    uvloop.run(_serve(App(runtime, worker), runtime, listener, counts))
    counts.write()
    return 0


def keep_large_objects_apart() -> None:
    """Have large objects, such as bodies, return their memory to the system when they are freed.

    glibc takes a larger size for large with each one that is freed, up to 32 MB. Later ones then
    come from the heaps of threads, and leave holes there.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)


async def _serve(app: Any, runtime: Runtime, listener: int, counts: Gatherer) -> None:
    loop = asyncio.get_running_loop()
    config = runtime.config.server
    app.__rsgi_init__(loop)
    server = Server(
        app.__rsgi__,
        listener,
        http=HTTPModes.auto if config.http2 else HTTPModes.http1,
        http2_settings=_HTTP2,
        websockets=False,
        backpressure=runtime.most_connections,
        log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
        **_tls(config.tls),
    )
    # Its lines go through our handler; at info they only describe how it is embedded.
    logging.getLogger("_granian").setLevel(logging.ERROR)

    def stop() -> None:
        # After a drain no request is left. Otherwise (a second signal, or the launcher died or gave
        # up) granian would wait for the running ones until it is killed.
        app.draining.end_requests()
        server.stop()  # type: ignore[no-untyped-call]

    loop.add_signal_handler(signal.SIGTERM, stop)
    leave = app.on_hand_over = Leaving(loop, server, runtime.run_dir).begin
    if runtime.most_connections < MOST_CONNECTIONS:
        # As the application, after what the metrics read.
        from vgate.frontend.shedding import Shedding

        shedding = Shedding(loop, runtime, listener)
        shedding.begin()
        app.on_hand_over = partial(shedding.end, then=leave)
    logs.gather_lines(loop)
    counts.gather(loop.call_soon)
    Garbage(loop, lambda: app.memory.held_bytes).begin()
    log.debug("frontend listens")
    await server.serve()
    app.__rsgi_del__(loop)


def _tls(tls: Tls) -> dict[str, Any]:
    """Return granian's options."""
    if tls.certificate is None or tls.key is None:
        return {}
    return {
        "ssl_cert": Path(tls.certificate),
        "ssl_key": Path(tls.key),
        "ssl_protocol_min": SSLProtocols.tls12,
        "ssl_ca": Path(tls.client_ca) if tls.client_ca else None,
        "ssl_client_verify": tls.client_ca is not None,
    }
