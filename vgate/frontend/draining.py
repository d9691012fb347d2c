"""How a frontend ends: it serves on, refuses requests, and lets those that run finish."""

import asyncio
from collections.abc import Collection
from typing import Any

from vgate.errors import ShuttingDownError
from vgate.frontend.engines.launcher_link import LauncherLink
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.http import Waits
from vgate.log import Log

log = Log("vgate.frontend")

_LOOK_S = 0.25
# For bodies that come too late to be served: what is on its way, so that the refusal is read.
_BODIES_S = 5.0


class Draining:
    """Ends the frontend's requests.

    Args:
        launcher: Hears when requests are refused.
        waits: Hears when connections shall be closed after their answers.
        requests: Those that run.

    Attributes:
        over: Whether all requests were ended, and those that come are refused.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launcher: LauncherLink,
        models: ModelRegistry,
        waits: Waits,
        requests: Collection[asyncio.Task[Any]],
    ) -> None:
        self.over = False
        self._loop = loop
        self._launcher = launcher
        self._models = models
        self._waits = waits
        self._requests = requests

    def begin(self, timeout_s: float, delay_s: float) -> None:
        """Drain as `vgate.wire.control.Drain` says."""
        in_flight = len(self._requests)
        log.info("draining", in_flight=in_flight, timeout_s=round(timeout_s, 1), delay_s=delay_s)
        self._waits.leaving = True
        self._loop.call_later(delay_s + timeout_s, self.end_requests)
        self._serve_on(delay_s, self._loop.time() + delay_s, list(self._requests))

    def _serve_on(self, delay_s: float, until: float, begun: list[asyncio.Task[Any]]) -> None:
        """Refuse requests once no client should send one on a connection that it kept.

        Each answer closes its connection by now, but not those that had `begun`, whose clients may
        ask once more. So the delay begins again until the last of them has ended.
        """
        now = self._loop.time()
        if delay_s and not all(request.done() for request in begun):
            until = now + delay_s
        if now < until:
            self._loop.call_later(min(_LOOK_S, until - now), self._serve_on, delay_s, until, begun)
            return
        self._launcher.draining = True
        self._waits.deadlines.shorten(_BODIES_S)
        # Waiting is useless: without a delay the launcher starts no more engines.
        for model in self._models:
            model.end_waits(ShuttingDownError())
        self._launcher.beat()

    def end_requests(self) -> None:
        """End every request with an error, and those that still come: the process ends."""
        self.over = True
        for model in self._models:
            model.engine.fail_all(ShuttingDownError())
        # The remaining requests wait for their clients' bodies.
        for task in self._requests:
            self._loop.call_later(0.1, task.cancel)
