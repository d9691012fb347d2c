"""Paths that vLLM's server has for balancers and for SageMaker, through the app."""

import asyncio
import json

import pytest

from tests.frontend.gateway import post, until
from vgate.config.model import Model
from vgate.config.schema import DryRun, Security
from vgate.keys import ConfiguredKey

HI = [{"role": "user", "content": "hi"}]
CHAT = {"messages": HI, "max_tokens": 3, "temperature": 0}
KEYS = Security(enabled=True, api_keys=[ConfiguredKey(name="a", key="sk-a")])


class TestPing:
    @pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
    def test_it_is_well_where_a_request_would_be_served(self, serve, method):
        async def scenario(gateway):
            answer = await gateway.request(method, "/ping")
            assert (answer.status, answer.body) == (200, b"")

        serve(scenario, security=KEYS)

    def test_it_is_not_without_an_engine(self, serve):
        async def scenario(gateway):
            assert (await gateway.request("GET", "/ping")).status == 503
            assert (await gateway.request("GET", "/load")).json == {"server_load": 0}

        serve(scenario, engine=False)


class TestLoad:
    def test_it_counts_what_runs_and_what_waits(self, serve):
        async def load(gateway):
            answer = await gateway.request("GET", "/load")
            assert answer.status == 200
            return answer.json

        async def scenario(gateway):
            assert await load(gateway) == {"server_load": 0}
            body = CHAT | {"max_tokens": 1000, "ignore_eos": True, "n": 3}
            headers = {"authorization": "Bearer sk-a"}
            running = asyncio.create_task(post(gateway, "/v1/chat/completions", body, **headers))
            states = gateway.app.models.states
            await until(lambda: states()[0].status.running == 3, "they run")
            assert await load(gateway) == {"server_load": 3}
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        serve(scenario, security=KEYS, dry_run=DryRun(step_ms=20))


class TestInvocations:
    @pytest.mark.parametrize(
        ("path", "body", "task"),
        [
            ("/v1/chat/completions", CHAT, "generate"),
            ("/v1/chat/completions", CHAT | {"prompt": None, "input": "x"}, "generate"),
            ("/v1/completions", {"prompt": "hi", "temperature": 0}, "generate"),
            ("/v1/embeddings", {"input": ["a", "b"]}, "embed"),
        ],
    )
    def test_the_answer_is_that_of_the_bodys_api(self, serve, path, body, task):
        async def scenario(gateway):
            there, here = [await post(gateway, where, body) for where in (path, "/invocations")]
            assert there.status == here.status == 200, here.body
            assert without_ids(here.json) == without_ids(there.json)

        serve(scenario, model=Model(task=task))

    def test_a_long_body_is_known_by_its_fields_too(self, serve):
        async def scenario(gateway):
            numbers = f'"metadata": {{"a": [{"1e300, " * 9_000}1]}}'
            for more in (numbers, f'"user": "a"{" " * 1024 * 1024}'):
                body = f"{json.dumps(CHAT)[:-1]}, {more}}}".encode()
                answer = await post(gateway, "/invocations", body)
                assert answer.status == 200, answer.body

        serve(scenario)

    def test_streams(self, serve):
        async def scenario(gateway):
            answer = await post(gateway, "/invocations", CHAT | {"stream": True})
            assert answer.status == 200
            assert answer.events[-1] == "[DONE]"

        serve(scenario)

    def test_errors_name_the_field(self, serve):
        async def scenario(gateway):
            for body, param in (
                (CHAT | {"temperature": -1}, "temperature"),
                ({"max_tokens": 3}, "prompt"),
            ):
                answer = await post(gateway, "/invocations", body)
                assert (answer.status, answer.error["param"]) == (400, param)
            answer = await gateway.request("GET", "/invocations")
            assert (answer.status, answer.headers["allow"]) == (405, "POST")

        serve(scenario)


def without_ids(answer):
    return {name: value for name, value in answer.items() if name not in {"id", "created"}}
