"""On a server that requires keys: the programs whose settings have no `unused` to put one in."""

import shlex

import pytest

from tests.clients.conftest import DOCUMENT, KEY, Client
from tests.clients.test_codex import EXEC, QUIET
from tests.clients.test_guidellm import benchmark
from tests.clients.test_lm_eval import GENERATE, evaluate

pytestmark = [
    pytest.mark.clients,
    pytest.mark.parametrize("client", ["keyed_gateway"], indirect=True),
]


def said(words: str) -> str:
    """Return words that the documentation has for a server with keys."""
    assert f"`{words}`" in DOCUMENT.read_text()
    return words


def test_codex(client: Client, npm_program):
    more = said('env_key = "VGATE_API_KEY"')
    settings = client.documented("Codex CLI").replace("}", f", {more}}}")
    client.write(client.home / ".codex" / "config.toml", QUIET + settings)
    client.environ["VGATE_API_KEY"] = KEY
    assert (
        "Repeat this" in client.run(npm_program("codex"), *EXEC, "Repeat this").split("codex\n")[-1]
    )


def test_llm(client: Client, python_program):
    llm = python_program("llm", "llm")
    settings = client.documented("llm").replace("}", f", {said('api_key_name: vgate')}}}")
    client.write(
        client.home / ".config" / "io.datasette.llm" / "extra-openai-models.yaml", settings
    )
    client.run(llm, *shlex.split(said("llm keys set vgate"))[1:], "--value", KEY)
    assert client.run(llm, "-m", "vgate", "Repeat this") == "Repeat this\n"


def test_lm_eval(client: Client, python_program):
    client.environ[said("OPENAI_API_KEY")] = KEY
    assert "exact_match,none" in evaluate(client, python_program, 0, GENERATE)


def test_guidellm(client: Client, python_program):
    said(",api_key=YOUR_KEY")
    totals = benchmark(client, python_program, f",api_key={KEY}")
    assert totals["successful"] > 0
    assert totals["errored"] == 0
