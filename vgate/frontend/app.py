"""The RSGI application: one request in, one response out, and every error made HTTP here."""

from __future__ import annotations

import asyncio
from typing import Any

from vgate.config import Runtime
from vgate.errors import InternalError, MethodNotAllowedError, ShuttingDownError, VGateError
from vgate.frontend.disconnect import ClientDisconnected
from vgate.frontend.engine_client import EngineClient
from vgate.frontend.http import JSON, HttpRequest, Response, RSGIScope
from vgate.frontend.launcher_link import LauncherLink
from vgate.frontend.openai.errors import error_body, error_headers
from vgate.frontend.routes import match
from vgate.frontend.services import Services
from vgate.frontend.text_model import TextModelError, load_text_model
from vgate.log import Log
from vgate.wire.messages import ModelInfo

log = Log("vgate.frontend")

# Asked for every few seconds by probes; a line for each would hide the others.
_QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})


class App:
    """One frontend worker.

    Args:
        runtime: The instance's settings.
        worker: This worker's number, from 1.
    """

    def __init__(self, runtime: Runtime, worker: int) -> None:
        self._runtime = runtime
        self._worker = worker
        self._requests: set[asyncio.Task[Any] | None] = set()
        self._loading: asyncio.Task[None] | None = None
        self.services: Services

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect to engine and launcher. Called in the worker, while its loop stands still."""
        runtime = self._runtime
        engine = EngineClient(
            loop,
            runtime.engine_endpoint,
            f"frontend-{self._worker}",
            on_model=self._on_model,
            on_lost=self._on_engine_lost,
        )
        launcher = LauncherLink(
            loop,
            runtime.control_endpoint,
            self._worker,
            ready=lambda: self.services.not_ready_because() is None,
            in_flight=lambda: len(self._requests),
            on_drain=self._on_drain,
        )
        self.services = Services(loop, runtime.config, engine, launcher)
        launcher.start()

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Leave engine and launcher."""
        self.services.engine.close()
        self.services.launcher.close()

    async def __rsgi__(self, scope: RSGIScope, protocol: Any) -> None:
        """Serve a request."""
        http = HttpRequest(scope, protocol)
        task = asyncio.current_task()
        self._requests.add(task)
        started = self.services.loop.time()
        response: Response | None = None
        try:
            response = await match(http.method, http.path).handler(self.services, http)
        except VGateError as error:
            response = _error_response(error)
            http.log_fields["error"] = error.code
        except ClientDisconnected:
            http.log_fields["disconnected"] = True
        except asyncio.CancelledError:
            # Only a drain that ran out of time cancels; granian must not see it. A stream got
            # its error event before.
            if not http.streamed:
                response = _error_response(ShuttingDownError("the server is shutting down"))
        except Exception:
            log.exception("request failed", request_id=http.id, path=http.path)
            http.log_fields["error"] = InternalError.code
            if not http.streamed:
                response = _error_response(InternalError(f"internal error, request {http.id}"))
        finally:
            self._requests.discard(task)
            http.close()
        if response is not None:
            http.respond(response)
        self._log(http, response, started)
        if self.services.launcher.draining and not self._requests:
            self.services.launcher.beat()

    def _log(self, http: HttpRequest, response: Response | None, started: float) -> None:
        if http.path in _QUIET_PATHS:
            return
        if http.log_fields.get("disconnected"):
            status = 499  # nginx's "client closed request"
        else:
            status = 200 if response is None else response.status
        log.info(
            "request finished",
            request_id=http.id,
            method=http.method,
            path=http.path,
            status=status,
            streamed=http.streamed,
            duration_ms=round((self.services.loop.time() - started) * 1000, 1),
            **http.log_fields,
        )

    def _on_model(self, info: ModelInfo) -> None:
        services = self.services
        current = services.text_model
        if current is not None and current.info.directory == info.directory:
            current.info = info
            services.launcher.beat()
            return
        self._loading = services.loop.create_task(self._load(info))

    async def _load(self, info: ModelInfo) -> None:
        services = self.services
        try:
            services.text_model = await services.loop.run_in_executor(
                None, load_text_model, info, services.config.model
            )
        except TextModelError as error:
            log.error("cannot serve the model's text", reason=error)
            services.text_model_problem = str(error)
        services.launcher.beat()

    def _on_engine_lost(self) -> None:
        self.services.launcher.beat()

    def _on_drain(self, timeout_s: float) -> None:
        log.info("draining", in_flight=len(self._requests), timeout_s=timeout_s)
        self.services.loop.call_later(timeout_s, self.end_requests)

    def end_requests(self) -> None:
        """End every request with an error, because the process ends."""
        error = ShuttingDownError("the server is shutting down", retry_after_s=5.0)
        self.services.engine.fail_all(error)
        # What is left waits for its client's body.
        for task in self._requests:
            if task is not None:
                self.services.loop.call_later(0.1, task.cancel)


def _error_response(error: VGateError) -> Response:
    headers = [JSON, *error_headers(error)]
    if isinstance(error, MethodNotAllowedError):
        headers.append(("allow", error.allow))
    return Response(error.status, error_body(error), headers)
