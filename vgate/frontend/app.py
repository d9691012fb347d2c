"""The RSGI application: one request in, one response out, and every error made HTTP here."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

from vgate.config import Runtime
from vgate.config.schema import Model
from vgate.errors import (
    InternalError,
    ModelNotFoundError,
    NotFoundError,
    ShuttingDownError,
    VGateError,
)
from vgate.frontend.access.gate import Access
from vgate.frontend.access.limiter.local import Limiter
from vgate.frontend.apis.anthropic import errors as anthropic_errors
from vgate.frontend.apis.openai.errors import error_body, error_headers
from vgate.frontend.cache.local import ResultCache
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.file_cache import FileCache
from vgate.frontend.engines.handle import EngineHandle, HandleOwner
from vgate.frontend.engines.launcher_link import LauncherLink
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http.deadlines import Deadlines
from vgate.frontend.http.disconnects import ClientDisconnected, DisconnectWatch
from vgate.frontend.http.request import JSON, HttpRequest, Response, RSGIScope, Waits
from vgate.frontend.observe import metrics
from vgate.frontend.routes import Route, error_form, label_of, match
from vgate.frontend.services import Services
from vgate.log import Log
from vgate.wire.exchange import AsyncPeers

log = Log("vgate.frontend")

_DRAIN_RETRY_AFTER_S = 5.0
_STATUS_CLIENT_CLOSED = 499  # nginx's "client closed request"


class App:
    """One frontend worker.

    Args:
        runtime: The instance's settings.
        worker: This worker's number, from 1.
    """

    def __init__(self, runtime: Runtime, worker: int) -> None:
        self._runtime = runtime
        self._worker = worker
        self._requests: set[asyncio.Task[Any]] = set()
        self._peers: AsyncPeers
        self._waits: Waits
        self.services: Services

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect to engines, launcher and peers, while the worker's loop stands still."""
        runtime = self._runtime
        launcher = LauncherLink(
            loop,
            runtime,
            self._worker,
            ready=lambda: self.services.not_ready_because() is None,
            in_flight=lambda: len(self._requests),
            problem=lambda: next((m.problem for m in self.services.models if m.problem), None),
            on_drain=self._on_drain,
        )
        models = [self._model(loop, launcher, model) for model in runtime.config.models]
        self._waits = Waits(DisconnectWatch(loop), Deadlines(loop))
        cache = ResultCache(runtime.config.cache, clock=time.monotonic)
        self._peers = AsyncPeers(
            loop, runtime.publish_endpoint, runtime.subscribe_endpoint, cache.receive
        )
        if runtime.config.server.worker_count > 1:
            cache.publish = self._peers.publish
        cache.on_evicted = metrics.CACHE_EVICTIONS.inc
        metrics.show_zeros()
        limiter = Limiter(Path(runtime.limits_dir), self._worker)
        # A worker of our number may have died in the middle of requests.
        limiter.reset_worker(self._worker)
        access = Access(loop, runtime.config.security, limiter, Path(runtime.kept_keys))
        self.services = Services(loop, runtime, launcher, models, cache, access)
        launcher.start()

    def _model(
        self, loop: asyncio.AbstractEventLoop, launcher: LauncherLink, model: Model
    ) -> ServedModel:
        engines = self._runtime.engines_of(model.name)

        def connect(owner: HandleOwner) -> list[EngineHandle]:
            name = f"frontend-{self._worker}"
            return [EngineClient(loop, spec.address, name, owner) for spec in engines.values()]

        return ServedModel(
            loop,
            model,
            connect,
            files=FileCache(Path(self._runtime.model_files_dir)),
            state=partial(launcher.engine_state, engines),
            on_change=launcher.beat,
            resume=self._runtime.config.supervision.resume_requests,
        )

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Leave engines, launcher and peers."""
        for model in self.services.models:
            model.engine.close()
        self.services.launcher.close()
        self.services.access.close()
        self._peers.close()

    async def __rsgi__(self, scope: RSGIScope, protocol: Any) -> None:
        """Serve a request."""
        task = asyncio.current_task(self.services.loop)
        assert task is not None
        http = HttpRequest(scope, protocol, self._waits, task)
        self._requests.add(task)
        started = time.monotonic()
        route: Route | None = None
        response: Response | None = None
        try:
            try:
                route = match(http.method, http.path)
                self._admit(http, route)
                response = await route.handler(self.services, http)
            finally:
                await http.discard_body()
                # Nobody gets an answer for nothing, and an error has cost work.
                self.services.access.count(http)
        except ClientDisconnected:
            http.log_fields["disconnected"] = True
        except VGateError as error:
            response = _error_response(http, error)
        except asyncio.CancelledError:
            # Only a drain that ran out of time cancels; granian must not see it. A stream got
            # its error event before.
            if not http.streamed:
                response = _error_response(http, _shutting_down())
        except Exception:
            log.exception("request failed", request_id=http.id, path=http.path)
            http.log_fields["error"] = InternalError.code
            if not http.streamed:
                response = _error_response(
                    http, InternalError(f"internal error, request {http.id}")
                )
        finally:
            self._requests.discard(task)
            if http.admission is not None:
                http.admission.release()
            http.close()
        if response is not None:
            http.respond(response)
        self._record(http, route, response, time.monotonic() - started)
        if self.services.launcher.draining and not self._requests:
            self.services.launcher.beat()

    def _admit(self, http: HttpRequest, route: Route) -> None:
        access = self.services.access
        key = access.authenticate(http)
        if key is not None:
            http.log_fields["key"] = key.name
            access.begin(http, key, wait=route.counts_tokens and http.is_small_body)

    def _record(
        self, http: HttpRequest, route: Route | None, response: Response | None, seconds: float
    ) -> None:
        if http.log_fields.pop("disconnected", False):
            status = _STATUS_CLIENT_CLOSED
        else:
            status = 200 if response is None else response.status
        error = http.log_fields.get("error")
        endpoint = label_of(route)
        metrics.record(metrics.Finished(endpoint, http.method, status, seconds, error))
        if route is not None and route.quiet:
            return
        log.info(
            "request finished",
            request_id=http.id,
            method=http.method,
            path=http.path,
            status=status,
            streamed=http.streamed,
            duration_ms=round(seconds * 1000, 1),
            **http.log_fields,
        )

    def _on_drain(self, timeout_s: float) -> None:
        log.info("draining", in_flight=len(self._requests), timeout_s=timeout_s)
        # The launcher starts no engine any more.
        for model in self.services.models:
            model.engine.fail_waiting(_shutting_down())
        self.services.loop.call_later(timeout_s, self.end_requests)

    def end_requests(self) -> None:
        """End every request with an error, because the process ends."""
        for model in self.services.models:
            model.engine.fail_all(_shutting_down())
        # What is left waits for its client's body.
        for task in self._requests:
            self.services.loop.call_later(0.1, task.cancel)


def _shutting_down() -> ShuttingDownError:
    message = "the server is shutting down"
    return ShuttingDownError(message, retry_after_s=_DRAIN_RETRY_AFTER_S)


def _error_response(http: HttpRequest, error: VGateError) -> Response:
    http.log_fields["error"] = error.code
    if http.admission is not None and isinstance(error, NotFoundError | ModelNotFoundError):
        # What isn't there costs nothing, and isn't counted.
        http.admission.withdraw()
    if error_form(http.path) == "anthropic":
        http.set_header(anthropic_errors.REQUEST_ID_HEADER, http.id)
        body = anthropic_errors.error_body(error, http.id)
    else:
        body = error_body(error)
    return Response(error.status, body, [JSON, *error_headers(error)])
