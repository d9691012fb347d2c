"""``/v1/embeddings`` through the app."""

import asyncio
import base64
import math
from array import array
from typing import Any

import pytest

from tests.frontend.apis.endpoints.conftest import EMBED_LIMIT
from tests.frontend.gateway import Gateway, Protocol, post, until
from vgate.config.model import Model
from vgate.config.schema import Batch, DryRun, Security, Server, Timeouts
from vgate.keys import ConfiguredKey

CLS, SEP, A, B, C, D = 0, 1, 3, 4, 5, 6


async def send(gateway: Gateway, **fields: Any) -> Protocol:
    return await post(gateway, "/v1/embeddings", {"model": "m", **fields})


async def vectors(gateway: Gateway, **fields: Any) -> list[list[float]]:
    answer = await send(gateway, **fields)
    assert answer.status == 200, answer.body
    assert [item["index"] for item in answer.json["data"]] == list(range(len(answer.json["data"])))
    return [item["embedding"] for item in answer.json["data"]]


def test_the_whole_answer(embed):
    async def scenario(gateway):
        answer = (await send(gateway, input=["a b", "a"], user="u")).json
        assert set(answer) == {"object", "data", "model", "usage"}
        assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        assert (answer["object"], answer["model"]) == ("list", "m")
        assert [(item["object"], item["index"]) for item in answer["data"]] == [
            ("embedding", 0),
            ("embedding", 1),
        ]

    embed(scenario)


def test_the_form_of_pooling_models(embed):
    async def scenario(gateway):
        for fields in ({"input": "a b"}, {"input": ["a", "b"], "encoding_format": "base64"}):
            wanted = (await send(gateway, **fields)).json
            for task in (None, "embed"):
                answer = (await post(gateway, "/pooling", {**fields, "task": task})).json
                assert set(answer) == {"id", "object", "created", "model", "data", "usage"}
                assert [item["data"] for item in answer["data"]] == [
                    item["embedding"] for item in wanted["data"]
                ]
                assert {item["object"] for item in answer["data"]} == {"pooling"}
                assert answer["usage"] == wanted["usage"]
        for fields, param in (({"input": "a", "task": "token_embed"}, "task"), ({}, "input")):
            answer = await post(gateway, "/pooling", fields)
            assert (answer.status, answer.error["param"]) == (400, param)

    embed(scenario)


def test_all_kinds_of_input_are_the_same_text(embed):
    async def scenario(gateway):
        (wanted,) = await vectors(gateway, input="a b")
        tokens = [CLS, A, B, SEP]
        for given in (["a b"], tokens, [tokens]):
            assert await vectors(gateway, input=given) == [wanted]

    embed(scenario)


def test_special_tokens_are_left_out_if_asked(embed):
    async def scenario(gateway):
        plain = await vectors(gateway, input="a b", add_special_tokens=False)
        assert plain == await vectors(gateway, input=[A, B])
        assert plain != await vectors(gateway, input="a b")

    embed(scenario)


class TestTruncation:
    @pytest.mark.parametrize(
        ("fields", "kept"),
        [
            ({"truncate_prompt_tokens": 4}, [CLS, A, B, SEP]),
            ({"truncate_prompt_tokens": 4, "truncation_side": "right"}, [CLS, A, B, SEP]),
            ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, [CLS, C, D, SEP]),
            ({"truncate_prompt_tokens": 3, "add_special_tokens": False}, [A, B, C]),
            ({"truncate_prompt_tokens": 6}, [CLS, A, B, C, D, SEP]),
            ({"truncate_prompt_tokens": -1}, [CLS, A, B, C, D, SEP]),
            ({"truncation_side": "left"}, [CLS, A, B, C, D, SEP]),
        ],
    )
    def test_a_text_keeps_its_special_tokens(self, embed, fields, kept):
        async def scenario(gateway):
            answer = await send(gateway, input="a b c d", **fields)
            assert answer.json["usage"]["prompt_tokens"] == len(kept)
            wanted = await vectors(gateway, input=kept)
            assert [item["embedding"] for item in answer.json["data"]] == wanted

        embed(scenario)

    def test_token_ids_are_cut_as_they_are(self, embed):
        async def scenario(gateway):
            both = [[A, B, C, D], [A]]
            first = await vectors(gateway, input=both, truncate_prompt_tokens=2)
            assert first == await vectors(gateway, input=[[A, B], [A]])
            last = await vectors(
                gateway, input=both, truncate_prompt_tokens=2, truncation_side="left"
            )
            assert last == await vectors(gateway, input=[[C, D], [A]])

        embed(scenario)

    def test_to_the_model_s_limit(self, embed):
        async def scenario(gateway):
            text = "a " * EMBED_LIMIT
            answer = await send(gateway, input=["a", text])
            assert answer.error["code"] == "context_length_exceeded"
            assert answer.error["param"] == "input[1]"
            assert f"{EMBED_LIMIT + 2} tokens" in answer.error["message"]
            answer = await send(gateway, input=text, truncate_prompt_tokens=-1)
            assert answer.json["usage"]["prompt_tokens"] == EMBED_LIMIT

        embed(scenario)


class TestEncoding:
    def test_base64_is_the_same_numbers(self, embed):
        async def scenario(gateway):
            (numbers,) = await vectors(gateway, input="a b")
            for fields, code, swap in (
                ({}, "f", False),
                ({"embed_dtype": "float32", "endianness": "native"}, "f", False),
                ({"endianness": "big"}, "f", True),
            ):
                (text,) = await vectors(gateway, input="a b", encoding_format="base64", **fields)
                packed = array(code, base64.b64decode(text))
                if swap:
                    packed.byteswap()
                assert packed.tolist() == numbers
            (text,) = await vectors(
                gateway, input="a b", encoding_format="base64", embed_dtype="float16"
            )
            assert len(base64.b64decode(text)) == 2 * len(numbers)

        embed(scenario)

    @pytest.mark.parametrize("fields", [{"embed_dtype": "float16"}, {"endianness": "big"}])
    def test_numbers_in_json_have_one_form(self, embed, fields):
        async def scenario(gateway):
            answer = await send(gateway, input="a b", **fields)
            assert answer.headers["x-vgate-ignored"] == next(iter(fields))
            plain = await send(gateway, input="a b")
            assert answer.json == plain.json

        embed(scenario)

    def test_fewer_dimensions(self, embed):
        async def scenario(gateway):
            (short,) = await vectors(gateway, input="a b", dimensions=7, use_activation=True)
            (whole,) = await vectors(gateway, input="a b")
            assert len(short) == 7
            assert math.hypot(*short) == pytest.approx(1, abs=1e-6)
            scale = math.hypot(*whole[:7])
            assert short == pytest.approx([value / scale for value in whole[:7]], abs=1e-6)

        embed(scenario)


def test_more_inputs_than_the_queue_takes(embed):
    """A request is made a window at a time, so others are served beside it."""

    async def scenario(gateway):
        inputs = [[A + n % 8, A + n // 8 % 8] for n in range(64)] * 32
        large = asyncio.ensure_future(send(gateway, input=inputs))
        alone = [await vectors(gateway, input=[given]) for given in inputs[:64]]
        answer = await large
        assert answer.status == 200, answer.body[:300]
        assert answer.json["usage"]["total_tokens"] == 2 * len(inputs)
        assert [[item["embedding"]] for item in answer.json["data"]] == alone * 32
        assert gateway.engine.idle

    embed(scenario, batch=Batch(max_num_seqs=2, max_queue_size=40))


def test_more_inputs_than_an_api_key_may_queue(embed):
    async def scenario(gateway):
        body = {"model": "m", "input": [[A, B]] * 64}
        answer = await post(gateway, "/v1/embeddings", body, authorization="Bearer sk-a")
        assert answer.status == 200, answer.body[:300]

    security = Security(enabled=True, api_keys=[ConfiguredKey(name="a", key="sk-a")])
    embed(scenario, batch=Batch(max_num_seqs=2, max_queue_size=40), security=security)


def test_a_client_that_leaves_in_the_middle(embed):
    async def scenario(gateway):
        body = b'{"model": "m", "input": [%s]}' % b",".join([b"[3]"] * 1000)
        protocol, task = gateway.begin("POST", "/v1/embeddings", body)
        engine = gateway.app.models[0].engine
        await until(lambda: engine.in_flight and protocol.disconnected, "it runs")
        assert engine.in_flight <= 32
        protocol.disconnected.set_result(None)
        await task
        assert protocol.status is None
        assert engine.in_flight == 0
        await until(lambda: gateway.engine.idle, "the engine drops it")

    embed(scenario, dry_run=DryRun(step_ms=20), batch=Batch(max_num_seqs=1))


def test_a_request_takes_no_longer_than_it_may(embed):
    async def scenario(gateway):
        answer = await send(gateway, input=[[A]] * 1000)
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        assert gateway.app.models[0].engine.in_flight == 0
        await until(lambda: gateway.engine.idle, "the engine drops it")

    embed(
        scenario,
        dry_run=DryRun(step_ms=50),
        batch=Batch(max_num_seqs=1),
        timeouts=Timeouts(request_s=0.3),
    )


def test_an_engine_that_dies_in_the_middle(embed):
    async def scenario(gateway):
        body = b'{"model": "m", "input": [%s]}' % b",".join([b"[3]"] * 200)
        protocol, task = gateway.begin("POST", "/v1/embeddings", body)
        engine = gateway.app.models[0].engine
        await until(lambda: engine.in_flight, "it runs")
        await gateway.engine.stop()
        await gateway.start_engine()
        await task
        assert protocol.status == 200
        assert len(protocol.json["data"]) == 200

    embed(scenario, dry_run=DryRun(step_ms=5), batch=Batch(max_num_seqs=2))


BAD = [
    ({"input": None}, "invalid_value", "input"),
    ({}, "invalid_value", "input"),
    ({"input": ""}, "invalid_value", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"input": [""]}, "invalid_value", "input[0]"),
    ({"input": [[]]}, "invalid_value", "input[0]"),
    ({"input": ["a", 1]}, "invalid_value", "input"),
    ({"input": [1, [1]]}, "invalid_value", "input"),
    ({"input": ["a", None]}, "invalid_value", "input[1]"),
    ({"input": [-1]}, "invalid_value", "input[0]"),
    ({"input": [True]}, "invalid_value", "input[0]"),
    ({"input": 5}, "invalid_value", "input"),
    ({"input": ["a"] * 2049}, "invalid_value", "input"),
    ({"input": [1, 11]}, "invalid_value", "input[1]"),
    ({"input": [[1], [1, 2**31 - 1]]}, "invalid_value", "input[1][1]"),
    ({"input": " ", "add_special_tokens": False}, "invalid_value", "input"),
    ({"input": ["a", " "], "add_special_tokens": False}, "invalid_value", "input[1]"),
    ({"input": [1] * (EMBED_LIMIT + 1)}, "context_length_exceeded", "input"),
    ({"input": "a", "add_special_tokens": None}, "invalid_value", "add_special_tokens"),
    ({"input": "a", "encoding_format": "bytes"}, "invalid_value", "encoding_format"),
    ({"input": "a", "encoding_format": 1}, "invalid_value", "encoding_format"),
    ({"input": "a", "embed_dtype": "fp8_e4m3"}, "invalid_value", "embed_dtype"),
    ({"input": "a", "endianness": "middle"}, "invalid_value", "endianness"),
    ({"input": "a", "dimensions": 0}, "invalid_value", "dimensions"),
    ({"input": "a", "dimensions": 385}, "invalid_value", "dimensions"),
    ({"input": "a", "dimensions": 2**40}, "invalid_value", "dimensions"),
    ({"input": "a", "truncate_prompt_tokens": 0}, "invalid_value", "truncate_prompt_tokens"),
    ({"input": "a", "truncate_prompt_tokens": -2}, "invalid_value", "truncate_prompt_tokens"),
    ({"input": "a", "truncate_prompt_tokens": 2}, "invalid_value", "truncate_prompt_tokens"),
    ({"input": "a", "truncate_prompt_tokens": 17}, "invalid_value", "truncate_prompt_tokens"),
    ({"input": "a", "truncation_side": "both"}, "invalid_value", "truncation_side"),
    ({"input": "a", "use_activation": False}, "unsupported_parameter", "use_activation"),
    ({"messages": [{"role": "user", "content": "a"}]}, "unsupported_parameter", "messages"),
    ({"input": "a", "normalize": True}, "unsupported_parameter", "normalize"),
    ({"input": "a", "padding": "max_length"}, "unsupported_parameter", "padding"),
    ({"input": "a", "padding": "longest"}, "unsupported_parameter", "padding"),
    ({"input": "a", "zzz": 1}, "unknown_parameter", "zzz"),
]


def test_what_is_wrong_is_named(embed):
    async def scenario(gateway):
        for fields, code, param in BAD:
            answer = await send(gateway, **fields)
            assert (answer.status, answer.error["code"]) == (400, code), (fields, answer.body)
            assert answer.error["param"] == param, fields
        neutral = {
            "priority": 0,
            "padding": "do_not_pad",
            "add_generation_prompt": False,
            "continue_final_message": False,
            "chat_template_kwargs": {},
            "messages": None,
            "dimensions": 384,
        }
        answer = await send(gateway, input="a", **neutral)
        assert (answer.status, answer.headers.get("x-vgate-ignored")) == (200, None)

    embed(scenario, server=Server(unknown_fields="refuse"))


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 1},
        {"priority": False},
        {"cache_salt": "x"},
        {"chat_template_kwargs": {"a": 1}},
        {"zzz": 1},
    ],
)
def test_what_has_no_effect_is_told(embed, fields):
    async def scenario(gateway):
        answer = await send(gateway, input="a", **fields)
        assert answer.status == 200
        assert answer.headers["x-vgate-ignored"] == next(iter(fields))

    embed(scenario)


def test_a_model_that_generates(serve):
    async def scenario(gateway):
        answer = await send(gateway, input="a")
        assert (answer.status, answer.error["param"]) == (400, "model")
        assert "does not embed" in answer.error["message"]

    serve(scenario, model=Model(served_model_name="m"))
