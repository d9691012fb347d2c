"""Python libraries: runs libraries/*.py, each in its environment, each of its cases as a test."""

import json
import re
from pathlib import Path

import pytest

from tests.clients.conftest import Client

pytestmark = pytest.mark.clients

LIBRARIES = Path(__file__).parent / "libraries"
TITLES = {
    "instructor": "Instructor",
    "langchain": "LangChain and LangGraph",
    "litellm": "LiteLLM",
    "llama_index": "LlamaIndex",
    "mem0": "mem0",
    "openai_agents": "OpenAI Agents SDK",
    "pydantic_ai": "Pydantic AI",
}
CASES = [
    (library, case)
    for library in TITLES
    for case in re.findall(
        r"^@case\n(?:async )?def (\w+)", (LIBRARIES / f"run_{library}.py").read_text(), re.MULTILINE
    )
]
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MEM0_TELEMETRY": "False",
    "PYTHONWARNINGS": "ignore",
}
outcomes: dict[str, dict[str, str]] = {}


@pytest.fixture
def errors(client: Client, python_program, library: str) -> dict[str, str]:
    """The errors of a library's cases, by name; all run at once, the first time."""
    if library not in outcomes:
        python = python_program(library)
        client.write(client.directory / "connect.py", client.documented(TITLES[library]))
        client.environ |= {**QUIET, "PYTHONPATH": str(client.directory)}
        output = client.run(python, LIBRARIES / f"run_{library}.py")
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"case":')]
        outcomes[library] = {line["case"]: line["error"] for line in lines}
    return outcomes[library]


@pytest.mark.parametrize(("library", "name"), CASES)
def test_case(errors: dict[str, str], name: str):
    assert not errors[name], errors[name]


def test_every_library_is_run():
    assert {path.stem.removeprefix("run_") for path in LIBRARIES.glob("run_*.py")} == set(TITLES)
