"""Traces of requests, as a collector gets them."""

import asyncio
import json
import re

import pytest

from tests.frontend.gateway import until
from tests.frontend.observe.otlp import Collector, attributes
from vgate.config.schema import Batch, DryRun, Timeouts, Tracing
from vgate.frontend.observe import metrics, sdk_traces, tracing

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-00"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
NAMES = {"user-agent": "me", "x-request-id": "r"}
CALL = 'Wait. <tool_call>{"name": "look_up", "arguments": {"q": "some words"}}</tool_call>'


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Have the SDK send at once what it otherwise sends every five seconds."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


@pytest.fixture(params=["http", "grpc"])
def collector(request):
    with Collector(request.param) as running:
        running.settings = Tracing(endpoint=running.endpoint, protocol=request.param)
        yield running


@pytest.fixture
def over_http():
    with Collector("http") as running:
        yield running


def body(gateway, text, **fields):
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": gateway.config.model.name, "messages": messages, **fields}).encode()


def ask(gateway, text="Hello!", headers=None, **fields):
    return gateway.request(
        "POST", "/v1/chat/completions", body(gateway, text, **fields), **(headers or {})
    )


def lost(reason):
    sample = metrics._registry.get_sample_value("vgate_spans_lost_total", {"reason": reason})
    return sample or 0.0


def test_a_streamed_request_with_a_tool_call_from_the_client_to_its_decoding(serve, collector):
    async def scenario(gateway):
        answer = await ask(
            gateway,
            CALL,
            {
                "traceparent": SAMPLED,
                "tracestate": "a=1,b=2",
                "user-agent": "me",
                "x-request-id": "r",
            },
            stream=True,
            temperature=0.5,
            tools=[TOOL],
        )
        assert '"name":"look_up"' in answer.body.decode()
        spans = await until(lambda: "decode" in collector.spans and collector.spans, "the spans")
        request = spans.pop(f"chat {gateway.config.model.name}")
        assert set(spans) == {"queue", "prefill", "decode", "parse_tool_calls"}
        assert answer.headers["traceresponse"] == f"00-{TRACE_ID}-{request.span_id.hex()}-01"
        assert (request.parent_span_id.hex(), request.trace_state) == (PARENT_ID, "a=1,b=2")
        assert request.kind == request.SPAN_KIND_SERVER
        assert {span.trace_id.hex() for span in (request, *spans.values())} == {TRACE_ID}
        parents = {name: span.parent_span_id for name, span in spans.items()}
        assert parents.pop("parse_tool_calls") == spans["decode"].span_id
        assert set(parents.values()) == {request.span_id}
        in_turn = [spans[name] for name in ("queue", "prefill", "decode")]
        times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in in_turn]
        flat = [request.start_time_unix_nano, *sum(times, ()), request.end_time_unix_nano]
        assert flat == sorted(flat)
        assert [times[0][1], times[1][1]] == [times[1][0], times[2][0]]
        calls = spans["parse_tool_calls"]
        assert times[2][0] < calls.start_time_unix_nano <= calls.end_time_unix_nano == times[2][1]
        assert attributes(calls) == {"vgate.tool_calls": ["look_up"]}
        usage = json.loads(answer.events[-2])
        check_attributes(attributes(request), gateway.config.model.name)
        assert attributes(spans["decode"]).keys() == {"gen_ai.usage.output_tokens"}
        assert usage["choices"][0]["finish_reason"] == "tool_calls"
        assert collector.resource["service.name"] == "vgate"
        assert collector.resource["service.instance.id"] == "frontend-1"

    def check_attributes(found, model):
        assert found.pop("gen_ai.usage.input_tokens") > found.pop("gen_ai.usage.output_tokens") > 20
        assert found.pop("gen_ai.response.time_to_first_chunk") > 0
        assert found.pop("gen_ai.request.max_tokens") > 0
        assert found == {
            "client.address": "127.0.0.1",
            "gen_ai.operation.name": "chat",
            "gen_ai.output.type": "text",
            "gen_ai.provider.name": "vgate",
            "gen_ai.request.model": model,
            "gen_ai.request.stream": True,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.top_p": 1.0,
            "gen_ai.response.finish_reasons": ["tool_calls"],
            "gen_ai.response.model": model,
            "gen_ai.usage.cache_read.input_tokens": 0,
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "http.route": "/v1/chat/completions",
            "url.path": "/v1/chat/completions",
            "user_agent.original": "me",
            "vgate.cache": "bypass",
            "vgate.request_id": "r",
        }

    serve(scenario, tracing=collector.settings)


def test_whether_a_request_is_sampled_is_its_client_s_decision_and_else_the_ratio_s(
    serve, over_http
):
    async def scenario(gateway):
        alone = await ask(gateway)
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]", alone.headers["traceresponse"])
        unsampled = await ask(gateway, headers={"traceparent": UNSAMPLED})
        assert unsampled.headers["traceresponse"].startswith(f"00-{TRACE_ID}-")
        assert unsampled.headers["traceresponse"].endswith("-00")
        malformed = await ask(gateway, headers={"traceparent": "00-nothing"})
        assert malformed.status == 200
        await ask(gateway, headers={"traceparent": SAMPLED})
        await until(lambda: over_http.spans, "the only trace")
        (trace_id,) = {span.trace_id.hex() for span in over_http.spans.values()}
        assert trace_id == TRACE_ID

    serve(scenario, tracing=Tracing(endpoint=over_http.endpoint, sample_ratio=0, service_name="x"))
    assert over_http.resource["service.name"] == "x"


def test_what_is_no_generation_has_one_span_and_probes_have_none(serve, over_http):
    async def scenario(gateway):
        for path in ("/health", "/v1/models", "/v1/models/none"):
            await gateway.request("GET", path)
        await ask(gateway, top_p=9)
        await until(lambda: len(over_http.spans) == 3, "three spans")
        found = {name: attributes(span) for name, span in over_http.spans.items()}
        assert set(found) == {"GET /v1/models", "GET /v1/models/", "chat"}
        assert found["GET /v1/models/"]["error.type"] == "model_not_found"
        assert found["chat"]["http.response.status_code"] == 400
        # The caller's mistake is not the server's.
        assert {span.status.code for span in over_http.spans.values()} == {0}

    serve(scenario, tracing=Tracing(endpoint=over_http.endpoint))


def test_a_request_that_fails_in_the_queue_has_a_failed_queue_and_no_other_phase(serve, over_http):
    async def scenario(gateway):
        first = gateway.begin_chat("x" * 50, stream=True)
        await until(lambda: first[0].parts, "a first token")
        answer = await ask(gateway)
        assert answer.error["code"] == "queue_timeout"
        await until(lambda: "queue" in over_http.spans, "its spans")
        spans = over_http.spans
        assert len(spans) == 2
        assert [span.status.code for span in spans.values()] == [2, 2]
        first[0].disconnected.set_result(None)
        await first[1]

    serve(
        scenario,
        tracing=Tracing(endpoint=over_http.endpoint),
        batch=Batch(max_num_seqs=1),
        dry_run=DryRun(step_ms=100, prefill_tokens_per_s=1e9),
        timeouts=Timeouts(queue_s=0.2),
    )


def test_a_collector_that_hangs_delays_nobody_and_what_is_lost_is_counted(
    serve, collector, monkeypatch, capfd
):
    monkeypatch.setattr(sdk_traces, "_MOST_WAITING", 12)
    monkeypatch.setattr(sdk_traces, "_BATCH", 4)
    monkeypatch.setattr(sdk_traces, "_CLOSE_S", 0.1)
    before = lost("queue_full")

    async def scenario(gateway):
        collector.open.clear()
        for _ in range(6):
            # Far below the exporter's own timeout of ten seconds.
            answer = await asyncio.wait_for(ask(gateway), 5)
            assert answer.status == 200
        # Of four spans each, three requests' fit at most.
        assert lost("queue_full") - before >= 12
        collector.open.set()

    serve(scenario, tracing=collector.settings)


def test_a_dead_collector_delays_nobody_and_what_is_lost_is_told(serve, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    told = []
    monkeypatch.setattr(sdk_traces.log, "warning", lambda *said, **more: told.append((said, more)))
    with Collector("http") as gone:
        endpoint = gone.endpoint
    before = lost("export_failed")

    async def scenario(gateway):
        answer = await asyncio.wait_for(ask(gateway), 5)
        assert answer.status == 200
        await until(lambda: told, "a line in the log")
        ((said, more),) = told
        assert said == ("spans of traces were lost",)
        assert more["count"] == lost("export_failed") - before == 4
        assert "Failed to export" in more["reason"]

    serve(scenario, tracing=Tracing(endpoint=endpoint))


def test_without_an_endpoint_there_are_no_traces(serve, monkeypatch):
    async def scenario(gateway):
        answer = await ask(gateway, headers={"traceparent": SAMPLED})
        assert "traceresponse" not in answer.headers

    serve(scenario)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    serve(scenario, tracing=Tracing(endpoint="http://127.0.0.1:1"))


def test_opentelemetry_s_own_variables_are_enough(serve, over_http, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", over_http.endpoint)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")

    async def unsampled(gateway):
        answer = await ask(gateway)
        assert answer.headers["traceresponse"][-2:] in {"00", "02"}  # bit 1: a random id

    serve(unsampled)
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")

    async def sampled(gateway):
        await ask(gateway)
        await until(lambda: over_http.spans, "the spans")

    serve(sampled)
    assert over_http.resource["service.name"] == "named"


def test_without_the_sdk_a_variable_is_told_and_a_setting_is_an_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vgate.frontend.observe.sdk_traces", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    told = []
    monkeypatch.setattr(tracing.log, "warning", told.append)
    assert tracing.traces_of(None, Tracing(), 1) is None
    assert "vgate[otel]" in told[0]
    with pytest.raises(ImportError):
        tracing.traces_of(None, Tracing(endpoint="http://127.0.0.1:1"), 1)
