"""Every list, map and any JSON of every request is bounded: the most that fits holds nobody up."""

import asyncio

import msgspec
import pytest
from msgspec import inspect

from bench.neighbour.fields import REQUESTS, filled, sample
from tests.frontend.gateway import post
from tests.frontend.watchdog import watched
from vgate.config.schema import Cache
from vgate.frontend.observe import metrics

# What takes 20 ms on an idle machine; without bounds it takes seconds.
HOLD_S = 0.25


def huge(kind: inspect.Type):
    """Yield the path of each number or any JSON in a type, and a document with a huge one there."""
    match kind:
        case inspect.Metadata(type=inner):
            yield from huge(inner)
        case inspect.UnionType(types=types):
            for inner in types:
                yield from huge(inner)
        case inspect.ListType(item_type=item):
            for path, inner in huge(item):
                yield f"[]{path}", [inner]
        case inspect.DictType(value_type=value):
            for path, inner in huge(value):
                yield f"{{}}{path}", {"1": inner}
        case inspect.IntType() | inspect.FloatType() | inspect.AnyType():
            yield from (("", number) for number in (2**64, -(10**40), 1e300, str(2**64)))
        case inspect.StructType(fields=fields):
            around = sample(kind)
            for field in fields:
                for path, inner in huge(field.type):
                    yield f".{field.encode_name}{path}", {**around, field.encode_name: inner}


@pytest.mark.slow
@pytest.mark.parametrize("request_name", REQUESTS, ids=" ".join)
def test_no_field_holds_a_worker_up(serve, request_name, monkeypatch):
    # The names that are sent here would leave no room for those of other tests.
    monkeypatch.setattr(metrics, "_ignored", set())
    (path, _), kind = request_name, REQUESTS[request_name]

    async def scenario(gateway):
        await gateway.chat()
        found = {}
        async with watched() as hold:
            for name, document in filled(kind):
                body = msgspec.json.encode(document)
                await asyncio.sleep(0.001)  # making the body doesn't count
                hold.longest_s = 0
                answer = await post(gateway, path, body)
                assert answer.status in {200, 400, 413}, (name, answer.body[:200])
                found[name] = hold.longest_s
        assert {name: held_s for name, held_s in found.items() if held_s > HOLD_S} == {}

    serve(scenario)


@pytest.mark.parametrize("request_name", REQUESTS, ids=" ".join)
def test_no_number_is_too_large_for_an_answer(serve, request_name):
    (path, _), kind = request_name, REQUESTS[request_name]

    async def scenario(gateway):
        found = {}
        for name, document in huge(kind):
            answer = await post(gateway, path, msgspec.json.encode(document))
            if answer.status not in {200, 400}:
                found[name] = answer.status, answer.body[:200]
        assert found == {}

    # What is stored is also hashed, with all that was asked for.
    serve(scenario, cache=Cache(enabled=True))


def test_every_field_is_filled():
    found = {
        f"{route} {name}{path}"
        for (route, name), kind in REQUESTS.items()
        for path, _ in filled(kind)
    }
    assert {
        "/v1/chat/completions ChatRequest.messages[]",
        "/v1/chat/completions ChatRequest.messages[].content[]",
        "/v1/chat/completions ChatRequest.structured_outputs.json{}",
        "/v1/completions CompletionRequest.logit_bias{}",
        "/v1/responses ResponsesRequest.tool_choice",
        "/v1/messages MessagesRequest.tools[].input_schema{}{}",
    } <= found
