"""The RSGI application: one request in, one response out. Every error becomes a response here."""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vgate.config import Runtime, masked
from vgate.config.model import Model
from vgate.errors import (
    InternalError,
    ModelNotFoundError,
    NotFoundError,
    ShuttingDownError,
    VGateError,
)
from vgate.frontend.access.made import access_of
from vgate.frontend.access.meter import LedgerReader
from vgate.frontend.cache.local import LocalStore
from vgate.frontend.cache.responses import stored_responses
from vgate.frontend.cache.second_level import store_behind
from vgate.frontend.draining import Draining
from vgate.frontend.engines.launcher_link import LauncherLink
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.remote.connect import connect_engines, engine_count
from vgate.frontend.engines.remote.joining import Joining
from vgate.frontend.engines.residency import Wanted
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
    StaticFiles,
    Waits,
)
from vgate.frontend.http.client_address import ClientAddresses
from vgate.frontend.http.hosts import Hosts
from vgate.frontend.http.unsent import Unsent
from vgate.frontend.observe import metrics
from vgate.frontend.observe.exemplars import example_of
from vgate.frontend.observe.processes import resident_bytes, worker_names
from vgate.frontend.observe.tracing import traces_of
from vgate.frontend.pipeline.overview.running import RunningRequests
from vgate.frontend.pipeline.overview.workers import AllWorkers
from vgate.frontend.pipeline.pipeline import EnginePipeline
from vgate.frontend.routes import Route, canonical, error_event, error_format, match
from vgate.frontend.routing import Router
from vgate.frontend.services import Services
from vgate.frontend.shared_state import shared_state_of
from vgate.log import Log, milliseconds
from vgate.wire.control import FrontendBeat
from vgate.wire.exchange import AsyncPeers

log = Log("vgate.frontend")

_PAGE = Path(__file__).with_name("ui")
_STATUS_CLIENT_CLOSED = 499  # nginx's "client closed request"


class App:
    """One frontend worker.

    Args:
        worker: This worker's number, from 1.

    Attributes:
        on_hand_over: Called when another worker has taken this one's place.
        draining: How it ends.
        memory: What its requests hold.
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
        self._cors = Cors(
            config.server.cors_allow_origins,
            key_required=key_required,
            names=config.server.allowed_hosts or (),
        )
        self._refuse_unknown = config.server.unknown_fields == "refuse"
        metrics.show_zeros()

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect to engines, launcher and peers. The loop is not running yet."""
        runtime, config, server = self._runtime, self._runtime.config, self._runtime.config.server
        self._loop = loop
        self._launcher = launcher = LauncherLink(
            loop,
            runtime,
            self._worker,
            heartbeat=self._heartbeat,
            on_drain=self._on_drain,
            on_hand_over=self._on_hand_over,
        )
        self.models = self._models()
        self._work = LongWork(loop, BodyLimits(server.max_body_bytes, server.max_items))
        unsent = Unsent(
            loop, server.write_timeout_s, config.timeouts.request_s, server.max_unsent_bytes
        )
        client_of = ClientAddresses(server.trusted_proxies).of
        self._waits = Waits(loop, server.max_memory_bytes, unsent.begin, client_of)
        self.memory = self._waits.memory
        self.draining = Draining(loop, launcher, self.models, self._waits, self._requests)
        cache = LocalStore(config.cache, clock=time.monotonic)
        running = RunningRequests(f"frontend-{self._worker}")
        workers = AllWorkers(loop, running, partial(worker_names, runtime), cache.receive)
        publish, subscribe = runtime.endpoint("publish"), runtime.endpoint("subscribe")
        self._peers = AsyncPeers(loop, publish, subscribe, workers.receive)
        workers.publish = self._peers.publish
        if server.worker_count > 1:
            cache.publish = self._peers.publish
        self._traces = traces_of(loop, config.tracing, self._worker)
        shared = shared_state_of(loop, config.state)
        self._results = store_behind(loop, cache, shared, config)
        self._access = access = access_of(loop, runtime, self._worker, shared)
        self._responses = stored_responses(loop, config.responses, runtime.run_dir)
        self.services = Services(
            pipeline=EnginePipeline(loop, config, self.models, self._results, self._work, running),
            work=self._work,
            models=self.models,
            cache=cache.usage,
            limits=access.usage,
            sees_all=access.sees_all,
            visitor=access.visitor,
            security=config.security,
            workers=workers,
            orders=launcher,
            hosts=Joining(runtime),
            memory=partial(resident_bytes, runtime),
            config=masked(config),
            backend=runtime.backend,
            started=runtime.started,
            shared_problems=shared.problems if shared else list,
            ledger=LedgerReader(access.meter, lambda: launcher.ledger_problem),
            page=StaticFiles(_PAGE) if server.ui else None,
            responses=self._responses,
        )
        launcher.beat()

    def _models(self) -> ModelRegistry:
        config, launcher = self._runtime.config, self._launcher
        wanted = Wanted(self._runtime, self._loop.time, launcher.tell)
        served = [self._model(model, wanted) for model in config.all_models]
        models = ModelRegistry(served, launcher, config)
        launcher.on_beat, launcher.on_state = wanted.tell, models.look
        return models

    def _model(self, model: Model, wanted: Wanted) -> ServedModel:
        loop, launcher = self._loop, self._launcher
        runtime, config = self._runtime, self._runtime.config
        limits = config.supervision
        suspects = Suspects(runtime.directory("suspects"), model.name, limits.restart_window_s)
        served = ServedModel(
            loop,
            model,
            partial(connect_engines, loop, runtime, model.name, self._worker, launcher.note),
            files=runtime.directory("model-files"),
            state=launcher.engine_state,
            on_change=launcher.beat,
            survivors=Survivors(
                enabled=limits.resume_requests,
                # Custom logits processors may depend on the prompt's length.
                continued=not model.engine_args.get("logits_processors"),
                hold_s=limits.hold_requests_s,
                # All workers together hold no more than fit the engine's queue.
                most_held=max(1, config.batch.max_queue_size // config.server.worker_count),
                # With one engine, two that died may be all that the launcher starts again.
                most_losses=2 * engine_count(runtime, model.name),
                suspects=suspects,
                residence=wanted.residence_of(model.name),
            ),
        )
        wanted.add(model.name, served.engine.residence, served.engine.demand)
        served.engine.route(Router(config.routing, loop.time, seed=self._worker))
        return served

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Disconnect from engines, launcher and peers."""
        for model in self.models:
            model.engine.close()
        self._launcher.close()
        self._work.close()
        self._access.close()
        self._results.close()
        if self._responses is not None:
            self._responses.close()
        self._peers.close()
        if self._traces is not None:
            self._traces.close()

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
        status = 200 if response is None else response.status
        # Its client has it all, and others still wait.
        self._work.turns.later(partial(self._record, http, route, status))
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
                if self._traces is not None and not route.quiet:
                    self._traces.begin(http)
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
            return route, None if _answered(http) else _error_response(http, ShuttingDownError())
        except Exception:
            log.exception("request failed", request_id=http.id, path=http.path)
            failed = InternalError(f"internal error, request {http.id}")
            return route, None if _answered(http) else _error_response(http, failed)

    async def _handle(self, http: HttpRequest, route: Route) -> Response | None:
        """Authenticate a request, admit it, handle it, and settle what it used.

        Raises:
            VGateError: It is refused, or has failed.
        """
        if self.draining.over and route.counts_tokens:
            # It came after all others were ended, and would wait for an engine that never comes.
            raise ShuttingDownError
        async with self._access.admission(
            http, public=route.public, generates=route.counts_tokens
        ) as admission:
            http.admission = admission
            if admission.key.name:
                http.log_fields["key"] = admission.key.name
            if route.admin:
                self._access.check_admin(http, admission)
            if route.admin or route.is_free:
                return await route.handler(self.services, http)
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
            await admission.count()
            return response

    def _record(self, http: HttpRequest, route: Route | None, status: int) -> None:
        seconds = http.ended - http.arrived
        if http.log_fields.pop("disconnected", False):
            status = _STATUS_CLIENT_CLOSED
        endpoint = metrics.OTHER if route is None else route.path
        error = http.log_fields.get("error")
        metrics.record(endpoint, http.method, status, seconds, error, example_of(http))
        if self._traces is not None and http.trace is not None:
            self._traces.finish(http, endpoint, status)
        if http.waited_s:
            http.log_fields["model_wait_s"] = round(http.waited_s, 3)
        if http.ignored.names:
            http.log_fields["ignored"] = http.ignored.names
            metrics.record_ignored(http.ignored.names, http.path)
        if route is not None and route.quiet:
            return
        fields = {
            "request_id": http.id,
            "method": http.method,
            "path": http.path,
            "status": status,
            "streamed": http.streamed,
            "client": http.client,
            "duration_ms": milliseconds(seconds),
        }
        log.event("request finished", fields | http.log_fields)

    def _heartbeat(self, draining: bool) -> FrontendBeat:
        problem = next((model.problem for model in self.models if model.problem), None)
        reason, in_flight = self.models.not_ready_because(), len(self._requests)
        refused = any(model.engine.refusal for model in self.models)
        return FrontendBeat(os.getpid(), reason, in_flight, draining, problem, refused)

    def _on_drain(self, timeout_s: float, delay_s: float) -> None:
        self.draining.begin(timeout_s, delay_s)

    def _on_hand_over(self) -> None:
        log.info("leaving the place to another frontend", in_flight=len(self._requests))
        self._waits.leaving = True
        self.on_hand_over()


def _answered(http: HttpRequest) -> bool:
    """Whether a stream has begun, and not only waits for its model."""
    return http.streamed and http.early is None


def _error_response(http: HttpRequest, error: VGateError) -> Response | None:
    http.log_fields["error"] = error.code
    if http.early is not None:
        http.early.write(error_event(http.path)(http, error))
        return None
    return error_format(http.path)(http, error)
