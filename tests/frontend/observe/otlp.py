"""Collectors that speak OTLP: real servers with the protocol's own classes."""

import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """A collector on a port of this machine, over one of the two protocols; a context manager.

    Attributes:
        received: The exports, in order.
        open: Cleared, it lets exports wait for their answer.
    """

    def __init__(self, protocol: str) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        self.open = threading.Event()
        self.open.set()
        if protocol == "grpc":
            self._grpc = grpc.server(futures.ThreadPoolExecutor(2))
            services.add_TraceServiceServicer_to_server(_Service(self), self._grpc)
            self.port = self._grpc.add_insecure_port("127.0.0.1:0")
        else:
            self._grpc = None
            self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            self.port = self._http.server_address[1]

    def __enter__(self) -> Self:
        if self._grpc is not None:
            self._grpc.start()
        else:
            threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.open.set()
        if self._grpc is not None:
            self._grpc.stop(0).wait(10)
        else:
            self._http.shutdown()
            self._http.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        self.open.wait(20)
        self.received.append(request)
        return ExportTraceServiceResponse()

    @property
    def spans(self) -> dict[str, Span]:
        """The spans by name, of which each must have come once."""
        spans = [
            span
            for request in list(self.received)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        found = {span.name: span for span in spans}
        assert len(found) == len(spans)
        return found

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(self.received[0].resource_spans[0].resource)


def attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource as Python's values."""
    return {each.key: _value(each.value) for each in owner.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


class _Service(services.TraceServiceServicer):  # type: ignore[misc]
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return self._collector.take(request)


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = collector.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(answer.SerializeToString())

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler
