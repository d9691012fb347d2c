"""Pydantic AI: its agents on three APIs, with text and typed outputs."""

import connect
from cases import ANSWER, EXTRACT, QUESTION, THANKS, WELCOME, case, get_weather, main
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider

RESPONSES = OpenAIResponsesModel("my-model", provider=connect.provider)
ROOT = connect.provider.base_url.rstrip("/").removesuffix("/v1")
ANTHROPIC = AnthropicModel("my-model", provider=AnthropicProvider(base_url=ROOT, api_key="unused"))


class Person(BaseModel):
    name: str
    age: int


def converse(model) -> None:
    agent = Agent(model, instructions="Be brief.", tools=[get_weather])
    first = agent.run_sync(QUESTION)
    assert first.output == ANSWER
    second = agent.run_sync(THANKS, message_history=first.all_messages())
    assert second.output == WELCOME


def extract(model) -> None:
    assert Agent(model, output_type=Person).run_sync(EXTRACT).output == Person(name="Ada", age=36)


@case
def chat():
    converse(connect.model)


@case
def responses():
    converse(RESPONSES)


@case
def anthropic():
    converse(ANTHROPIC)


@case
def typed_chat():
    extract(connect.model)


@case
def typed_responses():
    extract(RESPONSES)


@case
def typed_anthropic():
    extract(ANTHROPIC)


@case
def typed_natively():
    agent = Agent(connect.model, output_type=NativeOutput(Person))
    assert agent.run_sync(EXTRACT).output == Person(name="Ada", age=36)


main()
