"""LangChain's OpenAI classes, as an application uses them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.instance import Instance
from tests.sdk.conversation import EMBEDDER, KEY, LIMITED_KEY, MODEL, call

langchain_openai = pytest.importorskip("langchain_openai", reason="needs the extra `sdk`")
messages = pytest.importorskip("langchain_core.messages")
tools = pytest.importorskip("langchain_core.tools")


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@tools.tool
def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


class Application:
    """Makes LangChain's models of an instance; all share connections that are closed at the end."""

    def __init__(self, http: openai.DefaultHttpxClient) -> None:
        self._http = http

    def chat(self, instance: Instance, **options: Any) -> Any:
        options = {"model": MODEL, "api_key": "unused", "max_retries": 0, **options}
        return self._make(langchain_openai.ChatOpenAI, instance, options)

    def completions(self, instance: Instance, **options: Any) -> Any:
        options = {"model": MODEL, "api_key": "unused", **options}
        return self._make(langchain_openai.OpenAI, instance, options)

    def embedder(self, instance: Instance, **options: Any) -> Any:
        options = {"model": EMBEDDER, "api_key": "unused", **options}
        return self._make(langchain_openai.OpenAIEmbeddings, instance, options)

    def _make(self, kind: Any, instance: Instance, options: dict[str, Any]) -> Any:
        return kind(base_url=f"{instance.url}/v1", http_client=self._http, **options)


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    with openai.DefaultHttpxClient() as http:
        yield Application(http)


@pytest.fixture(scope="module")
def model(application: Application, gateway: Instance) -> Any:
    return application.chat(gateway)


def test_invoke(model: Any):
    answer = model.invoke("Good morning")
    assert answer.content == "Good morning"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == MODEL
    assert answer.id


def test_usage(model: Any):
    usage = model.invoke("Good morning").usage_metadata
    assert usage["output_tokens"] == len("Good morning") + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_conversation(model: Any):
    answer = model.invoke(
        [
            messages.SystemMessage("Be brief."),
            messages.HumanMessage("Hello"),
            messages.AIMessage("Hi."),
            messages.HumanMessage([{"type": "text", "text": "and now?"}]),
        ]
    )
    assert answer.content == "and now?"


def test_stream(model: Any):
    chunks = list(model.stream("Good morning"))
    assert len(chunks) > 3
    assert "".join(chunk.content for chunk in chunks) == "Good morning"


def test_stream_with_usage(application: Application, gateway: Instance):
    whole, *others = application.chat(gateway, stream_usage=True).stream("Good morning")
    for chunk in others:
        whole += chunk
    assert whole.content == "Good morning"
    assert whole.usage_metadata["output_tokens"] == len("Good morning") + 1
    assert whole.response_metadata["finish_reason"] == "stop"


def test_batch(model: Any):
    texts = [f"text {number}" for number in range(8)]
    assert [answer.content for answer in model.batch(texts)] == texts


def test_async(application: Application, gateway: Instance):
    async def run() -> tuple[str, str, int]:
        async with openai.DefaultAsyncHttpxClient() as http:
            model = application.chat(gateway, http_async_client=http)
            whole = await model.ainvoke("one")
            streamed = [chunk.content async for chunk in model.astream("two")]
            embedder = application.embedder(
                gateway, http_async_client=http, check_embedding_ctx_length=False
            )
            return whole.content, "".join(streamed), len(await embedder.aembed_query("three"))

    assert asyncio.run(run()) == ("one", "two", 384)


def test_parameters(application: Application, gateway: Instance):
    model = application.chat(
        gateway,
        temperature=0.5,
        top_p=0.9,
        max_tokens=4,
        seed=1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        extra_body={"ignore_eos": True, "top_k": 5},
    )
    answer = model.invoke("ab", stop=["nowhere"])
    assert (answer.content, answer.response_metadata["finish_reason"]) == ("abab", "length")


def test_several_choices(application: Application, gateway: Instance):
    result = application.chat(gateway, n=2).generate([[messages.HumanMessage("hi")]])
    assert [choice.text for choice in result.generations[0]] == ["hi", "hi"]


def test_logprobs(application: Application, gateway: Instance):
    answer = application.chat(gateway, logprobs=True, top_logprobs=2).invoke("abc")
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith("abc")


def test_a_tool_round_trip(model: Any):
    bound = model.bind_tools([get_weather])
    conversation: list[Any] = [messages.HumanMessage(call("get_weather", city="Ulm"))]
    answer = bound.invoke(conversation)
    (tool_call,) = answer.tool_calls
    assert (tool_call["name"], tool_call["args"]) == ("get_weather", {"city": "Ulm"})
    conversation += [answer, get_weather.invoke(tool_call)]
    assert bound.invoke(conversation).content == "sunny in Ulm"


def test_streamed_tool_calls(model: Any):
    text = call("get_weather", city="Ulm") + call("get_weather", city="Köln")
    whole, *others = model.bind_tools([get_weather]).stream(text)
    for chunk in others:
        whole += chunk
    assert [c["args"] for c in whole.tool_calls] == [{"city": "Ulm"}, {"city": "Köln"}]


@pytest.mark.parametrize("choice", ["any", "get_weather"])
def test_a_required_tool(model: Any, choice: str):
    answer = model.bind_tools([get_weather], tool_choice=choice).invoke("no call")
    assert [tool_call["name"] for tool_call in answer.tool_calls] == ["get_weather"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(model: Any, method: str):
    structured = model.with_structured_output(Person, method=method)
    assert structured.invoke('{"name": "Jürgen", "age": 7}') == Person(name="Jürgen", age=7)


# LangChain dumps the chunks of OpenAI's client by a type without the parsed object.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_streamed_structured_output(model: Any):
    *_, last = model.with_structured_output(Person).stream('{"name": "x", "age": 1}')
    assert last == Person(name="x", age=1)


def test_structured_output_with_the_message(model: Any):
    structured = model.with_structured_output(Person, include_raw=True)
    answer = structured.invoke('{"name": "x", "age": 1}')
    assert answer["parsed"] == Person(name="x", age=1)
    assert answer["parsing_error"] is None
    assert answer["raw"].usage_metadata


def test_the_responses_api(application: Application, gateway: Instance):
    model = application.chat(gateway, use_responses_api=True)
    assert model.invoke("Good morning").text == "Good morning"
    assert "".join(chunk.text for chunk in model.stream("Good morning")) == "Good morning"
    bound = model.bind_tools([get_weather])
    conversation: list[Any] = [messages.HumanMessage(call("get_weather", city="Ulm"))]
    answer = bound.invoke(conversation)
    conversation += [answer, get_weather.invoke(answer.tool_calls[0])]
    assert bound.invoke(conversation).text == "sunny in Ulm"


def test_completions(application: Application, gateway: Instance):
    model = application.completions(gateway, max_tokens=20)
    assert model.invoke("one two") == "one two"
    assert "".join(model.stream("one two")) == "one two"


def test_errors(application: Application, gateway: Instance, guarded: Instance):
    with pytest.raises(openai.BadRequestError, match="32768"):
        application.chat(gateway).invoke("x" * 40_000)
    with pytest.raises(openai.AuthenticationError):
        application.chat(guarded, api_key="sk-wrong").invoke("hi")
    assert application.chat(guarded, api_key=KEY).invoke("hi").content == "hi"
    # More than the limit of two a second: the client waits as long as Retry-After says.
    patient = application.chat(guarded, api_key=LIMITED_KEY, max_retries=5)
    assert [patient.invoke("hi").content for _ in range(3)] == ["hi"] * 3


def test_embeddings(application: Application, gateway: Instance):
    model = application.embedder(gateway, check_embedding_ctx_length=False)
    vectors = model.embed_documents(["one", "two"])
    assert [len(vector) for vector in vectors] == [384, 384]
    assert model.embed_query("one") == pytest.approx(vectors[0], abs=1e-6)


def test_embeddings_of_tokens(
    application: Application, gateway: Instance, monkeypatch: pytest.MonkeyPatch
):
    """LangChain splits and tokenises texts itself; here with the dry-run engine's vocabulary."""
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)}
    of_bytes = tiktoken.Encoding(
        "bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _name: of_bytes)
    tokens = application.embedder(gateway, check_embedding_ctx_length=True)
    texts = application.embedder(gateway, check_embedding_ctx_length=False)
    given = ["Grüße", "two"]
    for left, right in zip(
        tokens.embed_documents(given), texts.embed_documents(given), strict=True
    ):
        assert left == pytest.approx(right, abs=1e-6)
