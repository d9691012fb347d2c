"""LangChain's agents and LangGraph's graphs, on three APIs."""

from cases import ANSWER, EXTRACT, QUESTION, THANKS, WELCOME, case, get_weather, main
from connect import claude, model
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

TOOLS = [tool(get_weather)]
CONNECTION = {"model": "my-model", "base_url": model.openai_api_base, "api_key": "unused"}
RESPONSES = ChatOpenAI(use_responses_api=True, **CONNECTION)
STORED = ChatOpenAI(use_responses_api=True, use_previous_response_id=True, **CONNECTION)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def converse(model) -> None:
    agent = create_agent(model, TOOLS, system_prompt="Be brief.")
    messages = agent.invoke({"messages": [("user", QUESTION)]})["messages"]
    assert messages[-1].text == ANSWER
    messages = agent.invoke({"messages": [*messages, ("user", THANKS)]})["messages"]
    assert messages[-1].text == WELCOME


def run_graph(model) -> None:
    bound = model.bind_tools(TOOLS)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(TOOLS))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    app = graph.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    for said, answer in ((QUESTION, ANSWER), (THANKS, WELCOME)):
        # The mode in which a model streams its tokens.
        assert list(app.stream({"messages": [("user", said)]}, thread, stream_mode="messages"))
        assert app.get_state(thread).values["messages"][-1].text == answer


def extract(model) -> None:
    assert model.with_structured_output(Person).invoke(EXTRACT) == Person(name="Ada", age=36)


@case
def agent_on_chat():
    converse(model)


@case
def agent_on_responses():
    converse(RESPONSES)


@case
def agent_on_stored_responses():
    converse(STORED)


@case
def agent_on_messages():
    converse(claude)


@case
def graph_on_chat():
    run_graph(model)


@case
def graph_on_responses():
    run_graph(RESPONSES)


@case
def graph_on_messages():
    run_graph(claude)


@case
def typed_on_chat():
    extract(model)


@case
def typed_on_responses():
    extract(RESPONSES)


@case
def typed_on_messages():
    extract(claude)


main()
