"""The llm command, with the list of OpenAI-compatible models that it reads."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import Client

pytestmark = pytest.mark.clients

TOOL = """
def get_weather(city: str) -> str:
    "The weather in a city."
    return f"sunny in {city}"
"""


@pytest.fixture
def llm(client: Client, python_program) -> Path:
    command: Path = python_program("llm", "llm")
    folder = Path(client.run(command, "logs", "path").strip()).parent
    client.write(folder / "extra-openai-models.yaml", client.documented("llm"))
    return command


def test_a_tool_call_and_a_second_turn(client: Client, llm: Path):
    answer = client.run(llm, "-m", "vgate", "--functions", TOOL, "What is the weather in Paris?")
    assert answer == "It is sunny in Paris.\n"
    assert client.run(llm, "--continue", "Thank you, that is all.") == "You are welcome.\n"


def test_a_schema(client: Client, llm: Path):
    answer = client.run(llm, "-m", "vgate", "--schema", "name, age int", "Who is in: Ada, 36")
    assert json.loads(answer) == {"name": "Ada", "age": 36}
