"""Runs the cases of a library's file and prints a line of JSON for each."""

import asyncio
import inspect
import json
import traceback
from collections.abc import Callable
from typing import Any

QUESTION = "What is the weather in Paris?"
ANSWER = "It is sunny in Paris."
THANKS = "Thank you, that is all."
WELCOME = "You are welcome."
EXTRACT = "Who is in: Ada, 36"

_cases: list[Callable[[], Any]] = []


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register a case: a function without arguments, which may be asynchronous."""
    _cases.append(function)
    return function


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def main() -> None:
    """Run all cases, in one event loop: clients keep their connections."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    for function in _cases:
        error = ""
        try:
            result = function()
            if inspect.isawaitable(result):
                loop.run_until_complete(result)
        except Exception:  # noqa: BLE001 - whatever a library raises is the case's outcome
            error = traceback.format_exc()[-3000:]
        print(json.dumps({"case": function.__name__, "error": error}), flush=True)
