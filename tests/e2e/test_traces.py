"""Traces of real processes: what has ended is sent before they end."""

import httpx

from tests.e2e.instance import Instance, wait_until
from tests.frontend.observe.otlp import Collector, attributes

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_the_last_request_s_trace_arrives(run_dirs):
    settings = {"dry_run": True, "server__workers": 1, "tracing__protocol": "grpc"}
    with Collector("grpc") as collector:
        with Instance(run_dirs, **settings, tracing__endpoint=collector.endpoint) as instance:
            answer = httpx.post(
                f"{instance.url}/v1/chat/completions",
                json={"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True},
                headers={"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"},
            )
            assert answer.headers["traceresponse"].startswith(f"00-{TRACE_ID}-")
            wait_until(lambda: f"trace_id={TRACE_ID}" in instance.logs(), 10, "a line in the log")
        spans = collector.spans
    names = {name for name in spans if not name.startswith("chat ")}
    assert names == {"queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE_ID}
    assert attributes(spans["decode"])["gen_ai.usage.output_tokens"] > 0
