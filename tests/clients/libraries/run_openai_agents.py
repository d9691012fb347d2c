"""OpenAI's Agents SDK: its loop on both APIs, with the settings that its users make."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
)
from cases import ANSWER, QUESTION, THANKS, WELCOME, case, get_weather, main
from connect import client, model
from openai.types.shared import Reasoning

TOOLS = [function_tool(get_weather)]


def converse(agent: Agent) -> None:
    first = Runner.run_sync(agent, QUESTION)
    assert first.final_output == ANSWER
    conversation = [*first.to_input_list(), {"role": "user", "content": THANKS}]
    assert Runner.run_sync(agent, conversation).final_output == WELCOME


@case
def responses():
    converse(Agent(name="A", instructions="Be brief.", model=model, tools=TOOLS))


@case
def chat():
    converse(Agent(name="A", model=OpenAIChatCompletionsModel("my-model", client), tools=TOOLS))


@case
async def streamed():
    run = Runner.run_streamed(Agent(name="A", model=model, tools=TOOLS), QUESTION)
    assert [event async for event in run.stream_events()]
    assert run.final_output == ANSWER


@case
def stored_responses():
    agent = Agent(name="A", model=model, tools=TOOLS)
    first = Runner.run_sync(agent, QUESTION, auto_previous_response_id=True)
    assert first.final_output == ANSWER
    second = Runner.run_sync(agent, THANKS, previous_response_id=first.last_response_id)
    assert second.final_output == WELCOME


@case
def common_settings():
    settings = ModelSettings(
        reasoning=Reasoning(effort="high", summary="detailed"),
        verbosity="low",
        truncation="auto",
        store=False,
        metadata={"team": "a"},
        parallel_tool_calls=True,
        include_usage=True,
    )
    converse(Agent(name="A", model=model, tools=TOOLS, model_settings=settings))
    chat_model = OpenAIChatCompletionsModel("my-model", client)
    converse(Agent(name="A", model=chat_model, tools=TOOLS, model_settings=settings))


main()
