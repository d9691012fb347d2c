"""The line of a request in the log says what it waited for."""

import asyncio
import time
from typing import Any

import pytest

from tests.frontend.gateway import Engine, until
from vgate.config.schema import Batch, Cache, DryRun, Server, Timeouts
from vgate.frontend.http import Response
from vgate.frontend.http.long_work import Turns

SLOW = DryRun(step_ms=10, prefill_tokens_per_s=1e9)
NUMBERS = {"max_tokens": 20, "ignore_eos": True}
TEXT = "on and on "


@pytest.fixture
def lines(caplog):
    """Return the fields of the requests that have finished."""
    caplog.set_level("INFO", "vgate.frontend")

    def finished():
        records = [r for r in caplog.records if r.getMessage() == "request finished"]
        return [record.vgate_fields for record in records]

    return finished


def test_a_stream_that_waited(serve, lines):
    async def scenario(gateway):
        _, first = gateway.begin_chat(TEXT, stream=True, **NUMBERS)
        await until(lambda: gateway.engine.scheduler.running, "the first runs")
        await gateway.chat("another", stream=True, **NUMBERS)
        await first
        (early, late) = lines()
        assert 0 <= early["queue_ms"] < late["queue_ms"]
        for line in (early, late):
            assert line["client"] == "127.0.0.1"
            assert line["cached_tokens"] == 0
            assert 9 <= line["prefill_ms"] < line["ttft_ms"]
            assert line["queue_ms"] + line["prefill_ms"] <= line["ttft_ms"] < line["duration_ms"]
            assert 0 < line["gap_p50_ms"] <= line["gap_max_ms"] < line["duration_ms"]
            assert line.keys().isdisjoint({"preemptions", "resumptions", "asked_model"})

    serve(scenario, dry_run=SLOW, batch=Batch(max_num_seqs=1))


def test_an_answer_in_one_piece_has_no_gaps(serve, lines):
    async def scenario(gateway):
        await gateway.chat(TEXT, **NUMBERS)
        await gateway.chat(TEXT, stop=["never"], **NUMBERS)
        for line in lines():
            assert line["queue_ms"] >= 0 < line["prefill_ms"] < line["ttft_ms"]
            assert "gap_max_ms" not in line

    serve(scenario, dry_run=SLOW)


def test_one_that_shares_a_sequence_waited_for_nothing(serve, lines):
    async def scenario(gateway):
        first, ends = gateway.begin_chat(TEXT, stream=True, **NUMBERS)
        await until(lambda: first.parts, "some text")
        await gateway.chat(TEXT, stream=True, **NUMBERS)
        await ends
        owner, sharer = lines()
        assert (owner["cache"], sharer["cache"]) == ("miss", "coalesced")
        assert "queue_ms" in owner
        assert "queue_ms" not in sharer
        assert "gap_max_ms" in sharer

    serve(scenario, dry_run=SLOW, cache=Cache())


def test_preemptions_are_told(serve, lines):
    async def scenario(gateway):
        # Both start, as the engine's forecast knows of more room than there is.
        answers = [gateway.chat(text, stream=True, **NUMBERS) for text in (TEXT * 5, "x" * 50)]
        await asyncio.gather(*answers)
        assert sorted(line.get("preemptions", 0) for line in lines()) == [0, 1]

    cramped = DryRun(step_ms=5, prefill_tokens_per_s=1e9, kv_cache_tokens=120)
    serve(scenario, dry_run=cramped)


def test_the_loss_of_an_engine_is_a_gap(serve, lines):
    async def scenario(gateway):
        stream, ends = gateway.begin_chat(TEXT, stream=True, max_tokens=60, ignore_eos=True)
        await until(lambda: len(stream.parts) > 5, "some text")
        await gateway.engine.stop()
        await asyncio.sleep(0.5)
        gateway.engine = Engine(gateway.runtime)
        gateway.engine.start()
        await ends
        assert stream.events[-1] == "[DONE]"
        (line,) = lines()
        assert line["resumptions"] == 1
        assert line["gap_max_ms"] > 450
        assert line["gap_p50_ms"] < 450

    serve(scenario, dry_run=SLOW)


def test_the_name_that_was_asked_for(serve, lines):
    async def scenario(gateway):
        await gateway.chat(model='gpt-4" level=ERROR', max_tokens=2)
        (line,) = lines()
        assert line["asked_model"] == 'gpt-4" level=ERROR'
        assert line["model"] == gateway.config.model.name

    serve(scenario, server=Server(any_model_name=True))


def test_the_name_of_a_model_that_is_not_there(serve, lines):
    async def scenario(gateway):
        assert (await gateway.chat(model="x" * 500)).status == 404
        (line,) = lines()
        assert (line["asked_model"], line["error"]) == ("x" * 128, "model_not_found")

    serve(scenario, server=Server(any_model_name=False))


def test_one_that_never_left_the_queue(serve, lines):
    async def scenario(gateway):
        first, ends = gateway.begin_chat(TEXT, stream=True, max_tokens=200, ignore_eos=True)
        await until(lambda: first.parts, "some text")
        assert (await gateway.chat("another", stream=True)).error["code"] == "queue_timeout"
        first.disconnected.set_result(None)
        await ends
        line, _ = lines()
        assert 200 <= line["queue_ms"] <= line["duration_ms"]
        assert line.keys().isdisjoint({"prefill_ms", "ttft_ms", "gap_max_ms"})

    serve(scenario, dry_run=SLOW, batch=Batch(max_num_seqs=1), timeouts=Timeouts(queue_s=0.2))


def test_the_client_behind_a_proxy(serve, lines):
    async def scenario(gateway):
        for claim in ("6.6.6.6, 203.0.113.9", 'x" level=ERROR'):
            await gateway.request("GET", "/v1/models", x_forwarded_for=claim)
        assert [line["client"] for line in lines()] == ["203.0.113.9", "127.0.0.1"]

    serve(scenario, engine=False, server=Server(trusted_proxies=["127.0.0.0/8"]))


def test_a_line_that_is_written_late_counts_no_more_time_and_keeps_no_body(
    serve, lines, monkeypatch
):
    later: list[Any] = []

    async def scenario(gateway):
        monkeypatch.setattr(Turns, "later", lambda _turns, work: later.append(work))
        began = time.monotonic()
        await gateway.chat(TEXT, **NUMBERS)
        took_s = time.monotonic() - began
        await until(lambda: time.monotonic() - began > 2 * took_s + 0.01, "more time")
        (work,) = later
        work()
        (line,) = lines()
        assert line["duration_ms"] / 1000 < 2 * took_s
        assert not any(isinstance(kept, Response) for kept in work.args)
        assert not work.args[0].read_body

    serve(scenario, dry_run=SLOW)
