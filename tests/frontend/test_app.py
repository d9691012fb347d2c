"""The app through its narrowest door: RSGI calls in memory, and a real engine loop behind it."""

import asyncio
import json
import sys

import pytest

from tests.frontend.gateway import DEADLINE_S, Protocol, Scope, chat_body, post, until
from vgate.config.model import Model
from vgate.config.schema import Batch, Cache, DryRun, Server, Supervision, Timeouts
from vgate.frontend import draining
from vgate.frontend.http import request as http
from vgate.frontend.http import waits
from vgate.frontend.observe import metrics
from vgate.frontend.routes import ROUTES
from vgate.wire.control import Drain, FrontendBeat, HandOver

SLOW = DryRun(step_ms=5, prefill_tokens_per_s=1e9)


def text_of(answer: Protocol) -> str:
    text: str = answer.json["choices"][0]["message"]["content"]
    return text


def streamed_text(answer: Protocol) -> str:
    assert answer.events[-1] == "[DONE]"
    deltas = [json.loads(e)["choices"] for e in answer.events[:-1]]
    return "".join(c[0]["delta"].get("content", "") for c in deltas if c)


class TestRoutes:
    def test_what_there_is(self):
        assert [(r.method, r.path) for r in ROUTES] == [
            ("POST, GET", "/v1/chat/completions"),
            ("POST, GET", "/v1/completions"),
            ("POST, GET", "/v1/responses"),
            ("GET, DELETE, POST", "/v1/responses/"),
            ("POST, GET", "/v1/messages"),
            ("POST", "/v1/messages/count_tokens"),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/"),
            ("POST", "/v1/embeddings"),
            ("POST", "/pooling"),
            ("POST", "/classify"),
            ("POST", "/v1/score"),
            ("POST", "/v1/rerank"),
            ("POST, GET", "/invocations"),
            ("POST", "/tokenize"),
            ("POST", "/detokenize"),
            ("GET", "/tokenizer_info"),
            ("GET", "/"),
            ("GET", "/docs"),
            ("GET", "/ui/"),
            ("GET", "/version"),
            ("GET", "/health"),
            ("GET", "/ready"),
            ("GET, POST", "/ping"),
            ("GET", "/load"),
            ("GET", "/metrics"),
            ("GET", "/stats"),
            ("GET", "/v1/usage"),
            ("GET, POST", "/admin/keys"),
            ("DELETE, POST", "/admin/keys/"),
            ("GET", "/admin/requests"),
            ("POST", "/admin/requests/"),
            ("GET, POST", "/admin/hosts"),
            ("DELETE", "/admin/hosts/"),
            ("POST", "/engines/join"),
            ("GET", "/admin/engines"),
            ("POST", "/admin/engines/"),
            ("GET", "/admin/models"),
            ("POST", "/admin/models/"),
            ("GET", "/openapi.json"),
        ]

    def test_unknown_paths(self, serve):
        async def scenario(gateway):
            for path in ("/v1", "/health/x", "/v1/chat/completions/x", "/é"):
                answer = await gateway.request("GET", path)
                assert (answer.status, answer.error["code"]) == (404, "not_found"), path
            for path, meant in (
                ("/v1/chat/completion", "did you mean /v1/chat/completions? GET"),
                ("/v1/embedding", "did you mean /v1/embeddings? GET"),
                ("/v1/files", "there is no /v1/files; GET /openapi.json lists all paths"),
                ("/" + "x" * 4000, "GET /openapi.json lists all paths"),
            ):
                assert meant in (await gateway.request("POST", path)).error["message"]

        serve(scenario)

    def test_other_methods_are_told_which_one_is_right(self, serve):
        async def scenario(gateway):
            for path, allow in (
                ("/v1/chat/completions", "POST"),
                ("/v1/models", "GET"),
                ("/v1/models/x", "GET"),
                ("/health", "GET"),
            ):
                for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
                    if method == allow:
                        continue
                    answer = await gateway.request(method, path)
                    assert answer.status == 405
                    assert answer.error["code"] == "method_not_allowed"
                    assert answer.headers["allow"].split(", ")[0] == allow

        serve(scenario)

    def test_head_is_get(self, serve):
        async def scenario(gateway):
            for path in ("/health", "/ready", "/v1/models"):
                assert (await gateway.request("HEAD", path)).status == 200
            assert (await gateway.request("HEAD", "/v1/chat/completions")).status == 405

        serve(scenario)

    def test_health_lives_without_an_engine(self, serve):
        async def scenario(gateway):
            answer = await gateway.request("GET", "/health")
            assert (answer.status, answer.json["status"]) == (200, "ok")

        serve(scenario, engine=False)


class TestRequestIds:
    def test_every_answer_has_one(self, serve):
        async def scenario(gateway):
            answers = [
                await gateway.request("GET", "/health"),
                await gateway.request("GET", "/nothing"),
                await gateway.chat(),
                await gateway.chat(stream=True),
                await gateway.chat(temperature=-1),
            ]
            ids = {answer.headers["x-request-id"] for answer in answers}
            assert len(ids) == len(answers)
            assert all(number.startswith("req-") for number in ids)

        serve(scenario)

    @pytest.mark.parametrize("given_", ["abc", "A-1_2.3/4:5", "x" * 128, "!~"])
    def test_a_client_s_own_is_kept(self, serve, given_):
        async def scenario(gateway):
            answer = await gateway.request("GET", "/health", x_request_id=given_)
            assert answer.headers["x-request-id"] == given_

        serve(scenario, engine=False)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("path", "body", "prefix"),
        [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "chatcmpl-"),
            ("/v1/completions", {"prompt": "x"}, "cmpl-"),
        ],
    )
    def test_an_answer_has_the_client_s_own(self, serve, path, body, prefix, stream):
        async def scenario(gateway):
            async def ids(field, **headers):
                fields = {"max_tokens": 2, "stream": stream, "request_id": field, **body}
                answer = await post(gateway, path, fields, **headers)
                assert "x-vgate-ignored" not in answer.headers
                events = answer.events[:-1] if stream else [answer.body]
                return {json.loads(event)["id"] for event in events}

            assert await ids("mine é") == {f"{prefix}mine é"}
            assert await ids("mine", x_request_id="header") == {f"{prefix}header"}
            assert await ids(None, x_request_id="header") == {f"{prefix}header"}
            # The same bytes as in the request before.
            assert await ids(None, x_request_id="other") == {f"{prefix}other"}
            ours = [await ids(field) for field in ("", None, None)]
            assert all(found.pop().startswith(prefix) for found in map(set, ours))
            assert ours[1] != ours[2]

        serve(scenario, cache=Cache(enabled=True))

    @pytest.mark.parametrize(
        "given_", ["", "x" * 129, "a b", "a\nb", "é", "a\x00", "\x7f", "abc\n"]
    )
    def test_but_not_if_it_could_do_harm(self, serve, given_):
        async def scenario(gateway):
            answer = await gateway.request("GET", "/health", x_request_id=given_)
            assert answer.headers["x-request-id"].startswith("req-")

        serve(scenario, engine=False)


class TestBodies:
    LIMIT = Server(max_body_bytes=1024)

    def test_up_to_the_limit(self, serve):
        async def scenario(gateway):
            body = chat_body(gateway, "x")
            body += b" " * (1024 - len(body))
            for sent in (body, [body], [body[:100], body[100:]]):
                answer = await gateway.request("POST", "/v1/chat/completions", sent)
                assert answer.status == 200

        serve(scenario, server=self.LIMIT)

    @pytest.mark.parametrize("declared", [True, False])
    def test_past_the_limit(self, serve, declared):
        async def scenario(gateway):
            body = chat_body(gateway, "x") + b" " * 1024
            headers = {"content_length": str(len(body))} if declared else {}
            answer = await gateway.request("POST", "/v1/chat/completions", [body], **headers)
            assert (answer.status, answer.error["code"]) == (413, "payload_too_large")

        serve(scenario, server=self.LIMIT)

    def test_what_is_too_large_is_read_up_to_a_bound(self, serve):
        async def scenario(gateway):
            chunks = [b"x" * (1 << 20)] * 200
            answer = await gateway.request("POST", "/v1/chat/completions", chunks)
            assert answer.status == 413
            protocol, task = gateway.begin("POST", "/v1/chat/completions", chunks)
            await task
            assert 64 << 20 <= protocol.read <= 66 << 20

        serve(scenario, server=self.LIMIT)

    def test_a_body_of_tiny_chunks_takes_no_more_memory(self, serve, monkeypatch):
        found = []
        read = http.HttpRequest.body

        async def body(self, most):
            found.append(await read(self, most))
            return found[-1]

        monkeypatch.setattr(http.HttpRequest, "body", body)

        async def scenario(gateway):
            sent = chat_body(gateway, "x") + b" " * 9000
            chunks = [sent[at : at + 2] for at in range(0, len(sent), 2)]
            answer = await gateway.request("POST", "/v1/chat/completions", chunks)
            assert answer.status == 200
            assert b"".join(found[0]) == sent
            assert sum(map(sys.getsizeof, found[0])) < 1.3 * len(sent)

        serve(scenario)

    @pytest.mark.parametrize(
        "length", [{"content-length": "10000"}, {"transfer-encoding": "chunked"}]
    )
    def test_a_cut_body_is_refused_even_if_it_looks_complete(self, serve, length):
        async def scenario(gateway):
            body = [chat_body(gateway, "x"), None]
            answer = await gateway.request("POST", "/v1/chat/completions", body, **length)
            assert (answer.status, answer.error["code"]) == (400, "invalid_request")
            whole = await gateway.request("POST", "/v1/chat/completions", body[:1], **length)
            assert whole.status == 200

        serve(scenario)


class TestNotReady:
    @pytest.mark.parametrize(
        ("state", "retry_after"), [("starting", "10"), ("restarting", "5"), ("ready", "1")]
    )
    def test_a_request_is_refused_with_the_reason(self, serve, state, retry_after):
        async def scenario(gateway):
            gateway.tell_state(state, "loading weights")
            await until(lambda: gateway.app.models[0].state.detail == "loading weights", "heard")
            for stream in (False, True):
                answer = await gateway.chat(stream=stream)
                assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
                assert answer.headers["retry-after"] == retry_after
            ready = await gateway.request("GET", "/ready")
            assert (ready.status, ready.json["ready"]) == (503, False)
            assert ready.json["reason"]
            if state != "ready":
                assert "loading weights" in answer.error["message"]
                assert ready.json["engines"][0]["state"] == state

        serve(scenario, engine=False)

    def test_bad_requests_and_names_are_told_first(self, serve):
        async def scenario(gateway):
            assert (await gateway.chat(temperature=-1)).status == 400
            assert (await gateway.chat(model="other")).status == 404

        serve(scenario, engine=False, server=Server(any_model_name=False))

    def test_it_becomes_ready_and_says_so(self, serve):
        async def scenario(gateway):
            await gateway.start_engine()
            ready = await gateway.request("GET", "/ready")
            assert (ready.status, ready.json["ready"], ready.json["reason"]) == (200, True, None)
            gateway.hear()

            def told():
                gateway.hear()
                return any(isinstance(m, FrontendBeat) and m.ready for m in gateway.heard)

            await until(told, "the launcher hears of it")

        serve(scenario, engine=False)

    def test_a_model_whose_files_are_broken(self, serve, tmp_path):
        (tmp_path / "tokenizer.json").write_text(
            json.dumps({"added_tokens": [{"id": 1, "special": True}]})
        )

        async def scenario(gateway):
            from tests.frontend.gateway import Engine

            gateway.engine = Engine(gateway.runtime)
            gateway.engine.start()
            await until(lambda: gateway.app.models[0].problem, "the problem")
            answer = await gateway.chat()
            assert answer.status == 503
            assert "tokenizer.json" in answer.error["message"]

        serve(scenario, engine=False, model=Model(model_id=str(tmp_path)))

    def test_a_tool_parser_that_does_not_exist(self, serve):
        # The launcher hears of it before a model is loaded, and gives up.
        async def scenario(gateway):
            problem = gateway.app.models[0].problem
            assert problem.startswith("`model.tool_parser` must be one of auto, none, ")
            assert problem.endswith("got 'xml'")
            assert gateway.heard[0].problem == problem

        serve(scenario, engine=False, model=Model(tool_parser="xml"))

    @pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), ("{% if", "not valid")])
    def test_a_configured_template_that_cannot_be_used(self, serve, tmp_path, content, words):
        path = tmp_path / "mine.jinja"
        if content is not None:
            path.write_text(content)

        # Also before a model is loaded.
        async def scenario(gateway):
            problem = gateway.app.models[0].problem
            assert str(path) in problem
            assert words in problem
            assert gateway.heard[0].problem == problem

        serve(scenario, engine=False, model=Model(chat_template=str(path)))


class TestChat:
    @pytest.mark.parametrize("text", ["Hello!", "é世😀 " * 20, "line\nline\n\n"])
    def test_whole_and_streamed_agree(self, serve, text):
        async def scenario(gateway):
            whole = await gateway.chat(text)
            streamed = await gateway.chat(text, stream=True, stream_options={"include_usage": True})
            assert (whole.status, streamed.status) == (200, 200)
            assert text_of(whole) == streamed_text(streamed) == text
            usage = json.loads(streamed.events[-2])["usage"]
            assert usage == whole.json["usage"]
            assert usage["completion_tokens"] == len(text.encode()) + 1
            assert streamed.headers["content-type"].startswith("text/event-stream")
            assert whole.headers["content-type"] == "application/json"

        alike = DryRun(step_ms=0, prefill_tokens_per_s=1e9, prefix_cache=False)
        serve(scenario, dry_run=alike)

    def test_stop_strings_and_n(self, serve):
        async def scenario(gateway):
            answer = await gateway.chat("one two three", n=3, stop=["two"])
            choices = answer.json["choices"]
            assert [c["message"]["content"] for c in choices] == ["one "] * 3
            assert [c["finish_reason"] for c in choices] == ["stop"] * 3
            await until(lambda: gateway.engine.idle, "the engine stops what nobody reads")

        serve(scenario, dry_run=SLOW)

    def test_the_largest_seed_with_several_choices(self, serve):
        async def scenario(gateway):
            answer = await gateway.chat("x", n=4, seed=2**63 - 1)
            assert answer.status == 200

        serve(scenario)

    def test_the_context_is_a_limit(self, serve):
        async def scenario(gateway):
            for fields, param in (
                ({"text": "x" * 200}, "messages"),
                ({"min_tokens": 1000}, "min_tokens"),
            ):
                answer = await gateway.chat(**fields)
                assert (answer.status, answer.error["param"]) == (400, param)
            for fields, told in (({}, None), ({"max_tokens": 100}, "max_tokens")):
                full = await gateway.chat("x", ignore_eos=True, **fields)
                assert full.json["usage"]["total_tokens"] == 100
                assert full.json["choices"][0]["finish_reason"] == "length"
                assert full.headers.get("x-vgate-ignored") == told

        serve(scenario, model=Model(max_model_len=100))

    def test_another_model(self, serve):
        async def scenario(gateway):
            answer = await gateway.chat(model="other")
            assert (answer.status, answer.error["param"]) == (404, "model")

        serve(scenario, server=Server(any_model_name=False))

    def test_one_model_serves_every_name(self, serve):
        async def scenario(gateway):
            answer = await gateway.chat(model="gpt-4o")
            assert answer.json["model"] == gateway.config.model.served_names[0]
            assert answer.headers["x-vgate-ignored"] == "model"
            for model in ("", None):
                answer = await gateway.chat(model=model)
                assert answer.json["model"] == gateway.config.model.served_names[0]
                assert "x-vgate-ignored" not in answer.headers

        serve(scenario)

    def test_unknown_fields_are_told_and_counted_once(self, serve, caplog, monkeypatch):
        # Other tests of this process may have sent as many as are named.
        monkeypatch.setattr(metrics, "_ignored", set())

        async def scenario(gateway):
            for _ in range(3):
                answer = await gateway.chat(zzz_unknown=1, verbosity="low")
                told = set(answer.headers["x-vgate-ignored"].split(", "))
                assert (answer.status, told) == (200, {"zzz_unknown", "verbosity"})
            warned = [r for r in caplog.records if "zzz_unknown" in str(vars(r))]
            assert len([r for r in warned if r.levelname == "WARNING"]) == 1

        serve(scenario)

    def test_unknown_fields_are_refused_if_configured(self, serve):
        async def scenario(gateway):
            answer = await gateway.chat(zzz=1)
            assert (answer.status, answer.error["code"]) == (400, "unknown_parameter")
            assert answer.error["param"] == "zzz"

        serve(scenario, server=Server(unknown_fields="refuse"))

    def test_the_number_of_choices_is_bounded(self, serve):
        async def scenario(gateway):
            assert (await gateway.chat(n=2, max_tokens=1)).status == 200
            answer = await gateway.chat(n=3)
            assert (answer.status, answer.error["param"]) == (400, "n")

        serve(scenario, server=Server(max_choices=2))

    def test_a_full_queue(self, serve):
        async def scenario(gateway):
            slow = [gateway.begin_chat("x", ignore_eos=True, max_tokens=100) for _ in range(6)]
            await asyncio.gather(*(task for _, task in slow))
            refused = [p for p, _ in slow if p.status == 503]
            assert refused
            for answer in refused:
                assert answer.error["code"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
            assert any(p.status == 200 for p, _ in slow)

        serve(scenario, batch=Batch(max_num_seqs=1, max_queue_size=2), dry_run=SLOW)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_wait_that_is_too_long(self, serve, stream):
        async def scenario(gateway):
            _, running = gateway.begin_chat("x", ignore_eos=True, max_tokens=1000)
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            answer = await gateway.chat("y", stream=stream)
            assert (answer.status, answer.error["code"]) == (503, "queue_timeout")
            running.cancel()
            await asyncio.wait([running])

        serve(scenario, batch=Batch(max_num_seqs=1), dry_run=SLOW, timeouts=Timeouts(queue_s=0.1))

    def test_a_deadline_that_passes(self, serve):
        async def scenario(gateway):
            whole = await gateway.chat("x", ignore_eos=True, max_tokens=1900)
            assert (whole.status, whole.error["code"]) == (504, "deadline_exceeded")
            streamed = await gateway.chat("x", ignore_eos=True, max_tokens=1900, stream=True)
            assert streamed.status == 200
            assert json.loads(streamed.events[-1])["error"]["code"] == "deadline_exceeded"
            await until(lambda: gateway.engine.idle, "the engine stops as well")

        serve(scenario, dry_run=SLOW, timeouts=Timeouts(request_s=0.2))


@pytest.mark.parametrize("stream", [False, True])
class TestLeaving:
    def test_a_client_that_leaves_is_aborted(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat(
                "x", n=2, ignore_eos=True, max_tokens=1900, stream=stream
            )
            await until(lambda: len(gateway.engine.scheduler.running) == 2, "both run")
            if stream:
                await until(lambda: protocol.status, "the stream opens")
            await until(lambda: protocol.disconnected, "the client is watched")
            protocol.disconnected.set_result(None)
            await asyncio.wait_for(task, 20)
            await until(lambda: gateway.engine.idle, "the engine stops")
            assert protocol.status == (200 if stream else None)
            assert "[DONE]" not in protocol.body.decode()

        serve(scenario, dry_run=SLOW)

    def test_the_watch_over_the_client_ends_with_the_answer(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat("x" * 10, stream=stream)
            await until(lambda: protocol.disconnected, "the client is watched")
            await asyncio.wait_for(task, 20)
            assert protocol.disconnected.cancelled()

        serve(scenario, dry_run=SLOW)

    def test_who_is_answered_at_once_is_not_watched(self, serve, stream):
        async def scenario(gateway):
            for _ in range(2):
                protocol = await gateway.chat("the same", stream=stream, temperature=0)
            assert protocol.headers["x-vgate-cache"] == "hit"
            assert protocol.disconnected is None

        serve(scenario, cache=Cache())

    def test_without_resuming_an_engine_that_dies_is_an_error_at_once(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat(
                "x", ignore_eos=True, max_tokens=1900, stream=stream
            )
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            if stream:
                await until(lambda: protocol.status, "the stream opens")
            await gateway.engine.stop()
            await asyncio.wait_for(task, 10)
            if stream:
                assert json.loads(protocol.events[-1])["error"]["code"] == "engine_unavailable"
            else:
                assert (protocol.status, protocol.error["code"]) == (503, "engine_unavailable")
                assert "retry-after" in protocol.headers
            # What comes now waits.
            later, waiting = gateway.begin_chat("later", stream=stream)
            # Its successor is found without help.
            await gateway.start_engine()
            await asyncio.wait_for(waiting, 10)
            assert (streamed_text(later) if stream else text_of(later)) == "later"

        serve(scenario, dry_run=SLOW, supervision=Supervision(resume_requests=False))

    def test_an_engine_that_dies_is_a_pause(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat("x" * 30, stream=stream, stop=["xy"])
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            if stream:
                await until(lambda: protocol.status, "the stream opens")
            await gateway.engine.stop()
            assert not task.done()
            await gateway.start_engine()
            await asyncio.wait_for(task, 20)
            assert (streamed_text(protocol) if stream else text_of(protocol)) == "x" * 30

        serve(scenario, dry_run=SLOW)

    def test_a_drain_ends_what_waits_for_another_engine(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat("x" * 50, stream=stream)
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            if stream:
                await until(lambda: protocol.status, "the stream opens")
            await gateway.engine.stop()
            gateway.engine = None
            engine = gateway.app.models[0].engine
            await until(lambda: not engine.connected, "the loss is noticed")
            gateway.tell(Drain(30.0))
            await asyncio.wait_for(task, 10)
            if stream:
                assert json.loads(protocol.events[-1])["error"]["code"] == "shutting_down"
            else:
                assert (protocol.status, protocol.error["code"]) == (503, "shutting_down")

        serve(scenario, dry_run=SLOW)

    def test_a_drain_refuses_the_new_and_lets_the_old_finish(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat("x" * 50, stream=stream)
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            gateway.tell(Drain(30.0))
            await until(lambda: gateway.app._launcher.draining, "the drain is heard")
            refused = await gateway.chat()
            assert (refused.status, refused.error["code"]) == (503, "shutting_down")
            assert (await gateway.request("GET", "/ready")).status == 503
            await asyncio.wait_for(task, 20)
            assert (streamed_text(protocol) if stream else text_of(protocol)) == "x" * 50

        serve(scenario, dry_run=SLOW)

    def test_before_a_delayed_drain_it_serves_and_closes_each_connection(self, serve, stream):
        async def scenario(gateway):
            # It has begun, so its client does not know, and may ask once more when it has ended.
            protocol, task = gateway.begin_chat("x" * 200, stream=stream)
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            gateway.tell(Drain(30.0, 0.5))
            await until(lambda: gateway.app._launcher.stopping, "the drain is heard")
            assert (await gateway.request("GET", "/ready")).status == 503
            await asyncio.wait_for(task, 20)
            assert (streamed_text(protocol) if stream else text_of(protocol)) == "x" * 200
            served = await gateway.chat("once more", stream=stream)
            assert (streamed_text(served) if stream else text_of(served)) == "once more"
            assert served.headers["connection"] == "close"
            await until(lambda: gateway.app._launcher.draining, "the delay ends")
            refused = await gateway.chat()
            assert (refused.status, refused.error["code"]) == (503, "shutting_down")
            assert refused.headers["connection"] == "close"

        serve(scenario, dry_run=SLOW)

    def test_a_drain_that_runs_out_ends_all(self, serve, stream):
        async def scenario(gateway):
            protocol, task = gateway.begin_chat(
                "x", ignore_eos=True, max_tokens=1900, stream=stream
            )
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            if stream:
                await until(lambda: protocol.status, "the stream opens")
            gateway.tell(Drain(0.05))
            await asyncio.wait_for(task, 10)
            error = json.loads(protocol.events[-1])["error"] if stream else protocol.error
            assert error["code"] == "shutting_down"
            await until(lambda: gateway.engine.idle, "the engine stops")

        serve(scenario, dry_run=SLOW)


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_after_a_hand_over_it_serves_and_closes_each_connection(serve, monkeypatch, version):
    monkeypatch.setattr(Scope, "http_version", version)

    async def scenario(gateway):
        told: list[bool] = []
        gateway.app.on_hand_over = lambda: told.append(True)
        assert "connection" not in (await gateway.chat()).headers
        gateway.tell(HandOver())
        await until(lambda: told, "it is heard")
        for stream in (False, True):
            answer = await gateway.chat("x", stream=stream)
            assert (streamed_text(answer) if stream else text_of(answer)) == "x"
            assert answer.headers.get("connection") == ("close" if version == "1.1" else None)
        assert (await gateway.request("GET", "/ready")).status == 200

    serve(scenario)


def test_a_fault_of_ours_is_a_500_with_the_request_id_and_no_details(serve, monkeypatch):
    async def scenario(gateway):
        def fault(*_arguments):
            message = "secret details"
            raise ZeroDivisionError(message)

        monkeypatch.setattr(type(gateway.app.models), "find", fault)
        answer = await gateway.chat()
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert answer.headers["x-request-id"] in answer.error["message"]
        assert "secret" not in answer.body.decode()

    serve(scenario)


class Stalled(Protocol):
    """A client that announces a body and does not send it."""

    async def __call__(self) -> bytes:
        return await asyncio.get_running_loop().create_future()


def test_a_body_that_does_not_come_is_not_waited_for_without_end(serve, monkeypatch):
    monkeypatch.setattr(http, "_BODY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(waits, "_SWEEP_S", 0.005)

    async def scenario(gateway):
        stalled = Stalled([])
        scope = Scope("POST", "/v1/chat/completions", {"content-length": "10"})
        await asyncio.wait_for(gateway.app.__rsgi__(scope, stalled), DEADLINE_S)
        assert stalled.status == 408
        assert (await gateway.chat()).status == 200

    serve(scenario)


def test_a_drain_waits_for_a_body_that_does_not_come_for_a_short_time(serve, monkeypatch):
    monkeypatch.setattr(draining, "_BODIES_S", 0.01)
    monkeypatch.setattr(waits, "_SWEEP_S", 0.005)

    async def scenario(gateway):
        scope = Scope("POST", "/v1/chat/completions", {"content-length": "10"})
        begun = Stalled([])
        waiting = asyncio.ensure_future(gateway.app.__rsgi__(scope, begun))
        await asyncio.sleep(0)
        gateway.app.draining.begin(600, 0)
        late = Stalled([])
        await asyncio.wait_for(gateway.app.__rsgi__(scope, late), DEADLINE_S)
        await asyncio.wait_for(waiting, DEADLINE_S)
        for stalled in (begun, late):
            assert (stalled.status, stalled.error["code"]) == (503, "shutting_down")
            assert stalled.headers["connection"] == "close"

    serve(scenario)


def test_a_request_that_comes_after_all_were_ended_does_not_wait_for_an_engine(serve):
    async def scenario(gateway):
        gateway.app.draining.end_requests()
        exchange, task = gateway.begin_chat("late")
        await asyncio.wait_for(task, DEADLINE_S)
        assert (exchange.status, exchange.error["code"]) == (503, "shutting_down")
        assert (await gateway.request("GET", "/health")).status == 200

    serve(scenario, engine=False, supervision=Supervision(hold_requests_s=600))
