"""A frontend process: granian's RSGI server around `vgate.frontend.app`.

The launcher starts one process a worker; each listens on the same port (SO_REUSEPORT) and the
kernel spreads connections over them. granian runs embedded in our loop, so that a worker is
supervised by itself: one that crashes in a loop takes no other with it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvloop
from granian.constants import HTTPModes
from granian.server.embed import Server

from vgate import log as logs
from vgate.config import Runtime
from vgate.config.schema import Server as ServerConfig

if TYPE_CHECKING:
    from vgate.frontend.observe.gathered_counts import Gatherer

_BACKLOG = 4096
# Requests that granian hands to the application at once; past it connections wait unread. The
# engine's queue is what limits work, with a clear answer, so this must not be reached before it.
_MAX_OPEN_REQUESTS = 65_536


_GC_NEW_OBJECTS = 10_000


def run(runtime: Runtime, worker: int) -> int:
    """Serve until SIGTERM; return the exit status."""
    # Read when the metrics are first imported, which is why the application is imported after it.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime.directory("metrics"))
    counts = _gather_counts()
    # Frontends scale by processes; a thread pool in each would only fight over the cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from vgate.frontend.app import App

    _raise_file_limit()
    settings = runtime.config.logging
    name = f"frontend-{worker}"
    logs.configure(name, level=settings.level, json_format=settings.json_format)
    uvloop.run(_serve(App(runtime, worker), runtime, counts))
    counts.write()
    return 0


def _gather_counts() -> Gatherer:
    """Have prometheus_client's counts gathered; for the reason see `observe.gathered_counts`."""
    from prometheus_client import values

    from vgate.frontend.observe.gathered_counts import Gatherer

    counts = Gatherer(os.getpid())
    values.ValueClass = counts.value
    return counts


async def _serve(app: Any, runtime: Runtime, counts: Gatherer) -> None:
    server = Server(
        app,
        address=_address(runtime.config.server),
        port=runtime.config.server.port,
        http=HTTPModes.http1,
        websockets=False,
        backlog=_BACKLOG,
        backpressure=_MAX_OPEN_REQUESTS,
        log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
    )
    # Its lines go through our handler; at info it tells of the embedding, which we know.
    logging.getLogger("_granian").setLevel(logging.ERROR)

    def stop() -> None:
        # After a drain nothing is left. Without one (a second signal, a launcher that died or gave
        # up) granian would wait for what runs, and be killed over it.
        app.end_requests()
        server.stop()  # type: ignore[no-untyped-call]

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    logs.gather_lines(loop)
    counts.gather(loop.call_soon)
    # Modules stay for good: the collector needn't look at them again.
    gc.collect()
    gc.freeze()
    # A request leaves a few cycles; looking for them after every 700 new objects costs more than
    # they do.
    gc.set_threshold(_GC_NEW_OBJECTS, 20, 20)
    await server.serve()


def _raise_file_limit() -> None:
    """Allow as many connections as the system does; a shell's default is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _address(server: ServerConfig) -> str:
    """Return the IP address of the configured host: granian takes no names."""
    found = socket.getaddrinfo(
        server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return str(found[0][4][0])
