"""LlamaIndex: an agent, and answers from documents that it embeds."""

from cases import ANSWER, QUESTION, THANKS, WELCOME, case, get_weather, main
from connect import embedder, llm
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.workflow import Context


@case
async def agent():
    agent = FunctionAgent(tools=[get_weather], llm=llm)
    context = Context(agent)
    assert str(await agent.run(QUESTION, ctx=context)) == ANSWER
    assert str(await agent.run(THANKS, ctx=context)) == WELCOME


@case
def documents():
    index = VectorStoreIndex.from_documents([Document(text=THANKS)], embed_model=embedder)
    assert str(index.as_query_engine(llm=llm).query("What was said?")) == WELCOME


main()
