"""LiteLLM: a loop with each of its providers for such a server, and the error for long prompts."""

import connect
import litellm
from cases import ANSWER, QUESTION, THANKS, WELCOME, case, get_weather, main

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
litellm.telemetry = False


def converse(connection: dict[str, str]) -> None:
    messages = [{"role": "user", "content": QUESTION}]

    def ask():
        answer = litellm.completion(messages=messages, tools=TOOLS, max_retries=0, **connection)
        messages.append(answer.choices[0].message.model_dump())
        return answer.choices[0].message

    (call,) = ask().tool_calls
    assert call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": get_weather("Paris")}
    messages.append(result)
    assert ask().content == ANSWER
    messages.append({"role": "user", "content": THANKS})
    assert ask().content == WELCOME


def overflow(connection: dict[str, str]) -> None:
    long = [{"role": "user", "content": "long " * 100_000}]
    try:
        litellm.completion(messages=long, max_retries=0, **connection)
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("there was no error")


@case
def openai():
    converse(connect.openai)


@case
def hosted_vllm():
    converse(connect.hosted_vllm)


@case
def anthropic():
    converse(connect.anthropic)


@case
def openai_overflow():
    overflow(connect.openai)


@case
def hosted_vllm_overflow():
    overflow(connect.hosted_vllm)


@case
def anthropic_overflow():
    overflow(connect.anthropic)


main()
