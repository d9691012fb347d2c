"""The RSGI application: one request in, one response out. Every error becomes a response here."""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vgate.config import Runtime, masked
from vgate.config.schema import Model
from vgate.errors import (
    InternalError,
    ModelNotFoundError,
    NotFoundError,
    ShuttingDownError,
    VGateError,
)
from vgate.frontend.access import Access
from vgate.frontend.access.limiter import LocalLimiter
from vgate.frontend.cache.local import LocalStore
from vgate.frontend.cache.responses import SqliteResponses
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.file_cache import FileCache
from vgate.frontend.engines.handle import EngineHandle, HandleOwner
from vgate.frontend.engines.launcher_link import LauncherLink
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.engines.suspects import Suspects
from vgate.frontend.http import (
    BodyLimits,
    ClientDisconnected,
    Cors,
    HttpRequest,
    LongWork,
    Response,
    Waits,
)
from vgate.frontend.http.hosts import Hosts
from vgate.frontend.http.unsent import Unsent
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline.pipeline import EnginePipeline
from vgate.frontend.routes import Route, canonical, error_format, match
from vgate.frontend.services import Services
from vgate.log import Log
from vgate.wire.control import FrontendBeat
from vgate.wire.exchange import AsyncPeers

log = Log("vgate.frontend")

_STATUS_CLIENT_CLOSED = 499  # nginx's "client closed request"


class App:
    """One frontend worker.

    Args:
        runtime: The instance's settings.
        worker: This worker's number, from 1.

    Attributes:
        on_hand_over: Called when another worker has taken this one's place.
    """

    def __init__(self, runtime: Runtime, worker: int) -> None:
        self._runtime = runtime
        self._worker = worker
        self._requests: set[asyncio.Task[Any]] = set()
        self.on_hand_over: Callable[[], None] = lambda: None
        config = runtime.config
        key_required = config.security.enabled
        open_locally = config.server.is_local and not key_required
        self._hosts = Hosts(config.server.allowed_hosts, open_locally=open_locally)
        self._cors = Cors(config.server.cors_allow_origins, key_required=key_required)
        self._refuse_unknown = config.server.unknown_fields == "refuse"

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect to engines, launcher and peers. The loop is not running yet."""
        runtime, config = self._runtime, self._runtime.config
        self._loop = loop
        self._launcher = launcher = LauncherLink(
            loop,
            runtime,
            self._worker,
            heartbeat=self._heartbeat,
            on_drain=self._on_drain,
            on_hand_over=self._on_hand_over,
        )
        models = [self._model(model) for model in config.models]
        self.models = ModelRegistry(
            models, lambda: launcher.draining, any_name=config.server.any_model_name
        )
        server = config.server
        self._work = LongWork(loop, BodyLimits(server.max_body_bytes, server.max_items))
        unsent = Unsent(
            loop, server.write_timeout_s, config.timeouts.request_s, server.max_unsent_bytes
        )
        self._waits = Waits(loop, server.max_memory_bytes, unsent)
        self._cache = cache = LocalStore(config.cache, clock=time.monotonic)
        self._peers = AsyncPeers(
            loop, runtime.endpoint("publish"), runtime.endpoint("subscribe"), cache.receive
        )
        if config.server.worker_count > 1:
            cache.publish = self._peers.publish
        metrics.show_zeros()
        limiter = LocalLimiter(runtime.directory("limits"), self._worker)
        kept_keys = runtime.directory("kept-keys") / "keys.jsonl"
        isolate = config.cache.isolate_keys
        self._access = Access(loop, config.security, kept_keys, limiter, isolate_keys=isolate)
        self._responses = None
        if config.responses.store:
            path = Path(config.responses.file or Path(runtime.run_dir, "responses.db"))
            self._responses = SqliteResponses(loop, config.responses, path)
        self.services = Services(
            pipeline=EnginePipeline(loop, config, self.models, cache, self._work),
            work=self._work,
            models=self.models,
            cache=cache.usage,
            limits=self._access.usage,
            sees_all=self._access.sees_all,
            config=masked(config),
            backend=runtime.backend,
            started=runtime.started,
            responses=self._responses,
        )
        launcher.beat()

    def _model(self, model: Model) -> ServedModel:
        loop, launcher = self._loop, self._launcher
        config, engines = self._runtime.config, self._runtime.engines_of(model.name)
        limits = config.supervision
        directory = self._runtime.directory("suspects")
        suspects = Suspects(directory, model.name, limits.restart_window_s)

        def connect(owner: HandleOwner) -> list[EngineHandle]:
            name = f"frontend-{self._worker}"
            return [EngineClient(loop, spec.address, name, owner) for spec in engines.values()]

        return ServedModel(
            loop,
            model,
            connect,
            files=FileCache(self._runtime.directory("model-files")),
            state=partial(launcher.engine_state, engines),
            on_change=launcher.beat,
            survivors=lambda continued: Survivors(
                enabled=limits.resume_requests,
                continued=continued,
                hold_s=limits.hold_requests_s,
                # All workers together hold no more than fit the engine's queue.
                most_held=max(1, config.batch.max_queue_size // config.server.worker_count),
                suspects=suspects,
            ),
        )

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Disconnect from engines, launcher and peers."""
        for model in self.models:
            model.engine.close()
        self._launcher.close()
        self._work.close()
        self._access.close()
        self._cache.close()
        if self._responses is not None:
            self._responses.close()
        self._peers.close()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Serve a request."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        http = HttpRequest(scope, protocol, self._waits, task, refuse_unknown=self._refuse_unknown)
        self._requests.add(task)
        try:
            route, response = await self._answer(http)
        finally:
            self._requests.discard(task)
            http.close()
        if response is not None:
            http.respond(response)
        self._record(http, route, response)
        if self._launcher.draining and not self._requests:
            self._launcher.beat()

    async def _answer(self, http: HttpRequest) -> tuple[Route | None, Response | None]:
        """Return a request's route and response; None if it was streamed or the client left."""
        route = None
        try:
            try:
                self._hosts.check(http)
                self._cors.check(http)
                if (answer := self._cors.preflight(http)) is not None:
                    return None, answer
                http.path = canonical(http.path)
                route = match(http.method, http.path)
                return route, await self._handle(http, route)
            finally:
                await http.discard_body()
        except ClientDisconnected:
            http.log_fields["disconnected"] = True
            return route, None
        except VGateError as error:
            return route, _error_response(http, error)
        except asyncio.CancelledError:
            # Only a drain that ran out of time cancels; granian must not see it. A stream already
            # has its error event.
            return route, None if http.streamed else _error_response(http, ShuttingDownError())
        except Exception:
            log.exception("request failed", request_id=http.id, path=http.path)
            failed = _error_response(http, InternalError(f"internal error, request {http.id}"))
            return route, None if http.streamed else failed

    async def _handle(self, http: HttpRequest, route: Route) -> Response | None:
        """Authenticate a request, admit it, handle it, and settle what it used.

        Raises:
            VGateError: It is refused, or has failed.
        """
        async with self._access.admission(http) as admission:
            http.admission = admission
            if admission.key.name:
                http.log_fields["key"] = admission.key.name
            if route.takes_up(http):
                admission.continues()
            await admission.begin(wait=route.counts_tokens and http.is_small_body)
            try:
                response = await route.handler(self.services, http)
            except BaseException as error:
                # Failed requests cost work, so they count, unless there was nothing to serve.
                await admission.count()
                if isinstance(error, NotFoundError | ModelNotFoundError):
                    await admission.abandon()
                raise
            # Streams that ran in the same step end together.
            await self._work.turns.take()
            await admission.count()
            return response

    def _record(self, http: HttpRequest, route: Route | None, response: Response | None) -> None:
        seconds = time.monotonic() - http.arrived
        status = 200 if response is None else response.status
        if http.log_fields.pop("disconnected", False):
            status = _STATUS_CLIENT_CLOSED
        endpoint = metrics.OTHER if route is None else route.path
        metrics.record(endpoint, http.method, status, seconds, http.log_fields.get("error"))
        if http.ignored.names:
            self._record_ignored(http)
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

    def _record_ignored(self, http: HttpRequest) -> None:
        http.log_fields["ignored"] = http.ignored.names
        for name in http.ignored.names:
            if metrics.record_ignored(name):
                log.warning(
                    "ignored a request field that has no effect; logged once for each field",
                    field=name,
                    path=http.path,
                )

    def _heartbeat(self, draining: bool) -> FrontendBeat:
        problem = next((model.problem for model in self.models if model.problem), None)
        reason, in_flight = self.models.not_ready_because(), len(self._requests)
        refused = any(model.engine.refusal for model in self.models)
        return FrontendBeat(os.getpid(), reason, in_flight, draining, problem, refused)

    def _on_hand_over(self) -> None:
        log.info("leaving the place to another frontend", in_flight=len(self._requests))
        self._waits.leaving = True
        self.on_hand_over()

    def _on_drain(self, timeout_s: float) -> None:
        log.info("draining", in_flight=len(self._requests), timeout_s=timeout_s)
        # Waiting is useless: the launcher starts no more engines.
        for model in self.models:
            model.engine.fail_waiting(ShuttingDownError())
        self._loop.call_later(timeout_s, self.end_requests)

    def end_requests(self) -> None:
        """End every request with an error, because the process ends."""
        for model in self.models:
            model.engine.fail_all(ShuttingDownError())
        # The remaining requests wait for their clients' bodies.
        for task in self._requests:
            self._loop.call_later(0.1, task.cancel)


def _error_response(http: HttpRequest, error: VGateError) -> Response:
    http.log_fields["error"] = error.code
    return error_format(http.path)(http, error)
