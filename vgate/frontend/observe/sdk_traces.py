"""Makes traces of requests; the only module that knows the OpenTelemetry SDK."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vgate import __version__
from vgate.config.schema import Tracing
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.observe.traces import Generated, Phases
from vgate.log import Log

log = Log("vgate.frontend")

# The operations of the GenAI conventions.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
_MOST_WAITING = 4096
# Encoding a batch holds the interpreter for a few milliseconds.
_BATCH = 128
_MOST_SPANS = 5
# How often it is told that spans were lost.
_TELL_S = 60.0
_CLOSE_S = 2.0


class RequestTrace:
    """A request's span, which is sampled, and what its answer adds.

    Attributes:
        offset_ns: What to add to monotonic nanoseconds for those since the epoch.
        generated: Set by the pipeline.
    """

    __slots__ = ("generated", "offset_ns", "span")

    def __init__(self, span: Span, offset_ns: int) -> None:
        self.span = span
        self.offset_ns = offset_ns
        self.generated: Generated | None = None

    def ns(self, seconds: float) -> int:
        """Return a time of `time.monotonic` in nanoseconds since the epoch."""
        return int(seconds * 1e9) + self.offset_ns


class SdkTraces:
    """Makes the traces of one worker's requests.

    A trace begins with its identity, which the answer carries; its spans are made of time stamps at
    the end of the request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Tracing, worker: int) -> None:
        self._losses = _Losses(loop)
        self._exporter = _Counted(_exporter(settings), self._losses)
        ratio = settings.sample_ratio
        name = settings.service_name or os.environ.get("OTEL_SERVICE_NAME") or "vgate"
        resource = {"service.version": __version__, "service.instance.id": f"frontend-{worker}"}
        self._provider = TracerProvider(
            # Without one, the SDK reads OTEL_TRACES_SAMPLER.
            sampler=None if ratio is None else ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({**resource, "service.name": name}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter, max_queue_size=_MOST_WAITING, max_export_batch_size=_BATCH
            )
        )
        self._tracer = self._provider.get_tracer("vgate", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, http: HttpRequest) -> None:
        """Give a request its place in a trace, and `http.trace` if it is sampled."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        carrier = {}
        if parent := http.header("traceparent"):
            carrier = {"traceparent": parent, "tracestate": http.header("tracestate") or ""}
        span = self._tracer.start_span(
            http.method,
            self._propagator.extract(carrier, Context()),
            SpanKind.SERVER,
            start_time=int(http.arrived * 1e9) + offset_ns,
        )
        place = span.get_span_context()
        trace_id = f"{place.trace_id:032x}"
        http.log_fields["trace_id"] = trace_id
        # W3C Trace Context, level 2.
        answer = f"00-{trace_id}-{place.span_id:016x}-{int(place.trace_flags):02x}"
        http.set_header("traceresponse", answer)
        if span.is_recording():
            http.trace = RequestTrace(span, offset_ns)

    def finish(self, http: HttpRequest, route: str, status: int) -> None:
        """Make the spans of a request that has `http.trace` and has ended."""
        if self._exporter.waiting + _MOST_SPANS > _MOST_WAITING:
            self._losses.add("queue_full", 1 + _phase_count(http.trace.generated))
            return
        trace: RequestTrace = http.trace
        span, generated = trace.span, trace.generated
        attributes = _of_request(http, route, status)
        operation, error = _OPERATIONS.get(route), http.log_fields.get("error")
        span.update_name(f"{http.method} {route}")
        if operation is not None:
            model = http.log_fields.get("model")
            attributes |= _of_generation(http, operation, generated)
            span.update_name(f"{operation} {model}" if model else operation)
        if error is not None:
            attributes["error.type"] = error
            if status >= 500 or status == 200:
                # The caller's own mistakes are no errors of the server.
                span.set_status(Status(StatusCode.ERROR, error))
        span.set_attributes(
            {name: value for name, value in attributes.items() if value is not None}
        )
        if generated is not None:
            self._add_phases(trace, generated, failed=error is not None)
        self._end(span, trace.ns(http.ended))

    def _add_phases(self, trace: RequestTrace, generated: Generated, *, failed: bool) -> None:
        parent, phases = set_span_in_context(trace.span, Context()), generated.phases
        for name, began, ended in _timeline(phases):
            span = self._tracer.start_span(name, parent, start_time=trace.ns(began))
            if failed and ended == phases.ended:
                span.set_status(Status(StatusCode.ERROR))
            if name == "prefill":
                _copy(span, generated.response, "gen_ai.usage.input_tokens")
                _copy(span, generated.response, "gen_ai.usage.cache_read.input_tokens")
            elif name == "decode":
                _copy(span, generated.response, "gen_ai.usage.output_tokens")
                self._add_calls(trace, span, generated)
            self._end(span, trace.ns(ended))

    def _add_calls(self, trace: RequestTrace, decode: Span, generated: Generated) -> None:
        phases = generated.phases
        if phases.calls is None:
            return
        parent = set_span_in_context(decode, Context())
        span = self._tracer.start_span(
            "parse_tool_calls", parent, start_time=trace.ns(phases.calls)
        )
        span.set_attribute("vgate.tool_calls", generated.called)
        self._end(span, trace.ns(phases.ended))

    def _end(self, span: Span, ended_ns: int) -> None:
        self._exporter.added += span.is_recording()
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left, if that is quick."""
        self._losses.close()
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _of_request(http: HttpRequest, route: str, status: int) -> dict[str, Any]:
    """Return the attributes that every request has."""
    return {
        "client.address": http.client,
        "http.request.method": http.method,
        "http.response.status_code": status,
        "http.route": route,
        "url.path": http.path,
        "user_agent.original": http.header("user-agent"),
        "vgate.request_id": http.id,
        "vgate.key": http.log_fields.get("key"),
    }


def _of_generation(
    http: HttpRequest, operation: str, generated: Generated | None
) -> dict[str, Any]:
    """Return the attributes of a request to a model."""
    fields = http.log_fields
    known: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "vgate",
        "gen_ai.request.model": fields.get("asked_model", fields.get("model")),
        "gen_ai.request.stream": http.streamed,
        "gen_ai.usage.input_tokens": fields.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": fields.get("completion_tokens"),
        "vgate.cache": fields.get("cache"),
    }
    if generated is not None:
        known |= {**generated.request, **generated.response}
    return known


def _timeline(phases: Phases) -> list[tuple[str, float, float]]:
    """Return the name, beginning and end of each phase that the answer had."""
    submitted, started, first, _, ended, shared = phases
    found = []
    if submitted is not None and not shared and (started is not None or first is None):
        found.append(("queue", submitted, ended if started is None else started))
    if started is not None and not shared:
        found.append(("prefill", started, ended if first is None else first))
    if first is not None:
        found.append(("decode", first, ended))
    return found


def _phase_count(generated: Generated | None) -> int:
    if generated is None:
        return 0
    return len(_timeline(generated.phases)) + (generated.phases.calls is not None)


def _copy(span: Span, attributes: Mapping[str, Any], name: str) -> None:
    if (value := attributes.get(name)) is not None:
        span.set_attribute(name, value)


def _exporter(settings: Tracing) -> SpanExporter:
    """Return the exporter; OpenTelemetry's variables say what the settings leave open."""
    protocol: str | None = settings.protocol
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = protocol or os.environ.get(variable)
    endpoint = settings.endpoint
    made: SpanExporter
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

        made = grpc.OTLPSpanExporter(endpoint)
    else:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

        if endpoint is not None and not endpoint.endswith("/v1/traces"):
            endpoint = endpoint.rstrip("/") + "/v1/traces"
        made = http.OTLPSpanExporter(endpoint)
    return made


class _Counted(SpanExporter):  # type: ignore[misc]
    """An exporter that counts, so that nothing waits beyond a bound and nothing is lost untold.

    Attributes:
        added: How many spans have ended; counted by the event loop.
    """

    def __init__(self, exporter: SpanExporter, losses: "_Losses") -> None:
        self._exporter = exporter
        self._losses = losses
        self.added = 0
        self._taken = 0  # counted by the SDK's thread

    @property
    def waiting(self) -> int:
        """How many spans wait, or are being sent."""
        return self.added - self._taken

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._taken += len(spans)
            if result is not SpanExportResult.SUCCESS:
                self._losses.add_from_thread("export_failed", len(spans))
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return whether the exporter holds nothing back."""
        return bool(self._exporter.force_flush(timeout_millis))


class _Losses(logging.Handler):
    """Counts the spans that are lost, and tells of them, once a minute, with the SDK's last words.

    Those come through its log, which goes nowhere else: it would repeat itself at every failure.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.WARNING)
        self._loop: asyncio.AbstractEventLoop | None = loop
        self._untold = 0
        self._next_tell = 0.0
        self._last_words = ""
        # A series that begins with an event shows no increase.
        for reason in ("queue_full", "export_failed"):
            metrics.SPANS_LOST.labels(reason)
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the SDK's log."""
        self._last_words = record.getMessage()[:500]

    def add_from_thread(self, reason: str, count: int) -> None:
        """Count spans, from another thread than the event loop's."""
        if (loop := self._loop) is not None:
            loop.call_soon_threadsafe(partial(self.add, reason, count))

    def add(self, reason: str, count: int) -> None:
        """Count spans that were lost."""
        metrics.SPANS_LOST.labels(reason).inc(count)
        self._untold += count
        if (now := time.monotonic()) >= self._next_tell:
            log.warning("spans of traces were lost", count=self._untold, reason=self._last_words)
            self._untold, self._next_tell = 0, now + _TELL_S

    def close(self) -> None:
        """Tell of nothing more: the event loop ends."""
        self._loop = None
        super().close()
