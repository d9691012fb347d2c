"""opencode, with the provider that it has for OpenAI-compatible servers."""

from pathlib import Path

import pytest

from tests.clients.conftest import NOTE, ON_BOTH_ENGINES, Client

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("note")]

QUIET = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")


@ON_BOTH_ENGINES
def test_a_tool_call_and_a_second_turn(client: Client, npm_program):
    opencode: Path = npm_program("opencode")
    client.write(client.directory / "opencode.json", client.documented("opencode"))
    client.environ.update({f"OPENCODE_DISABLE_{what}": "1" for what in QUIET})
    answer = client.run(opencode, "run", "What does note.txt say?")
    assert "the secret is swordfish" in answer
    assert "The note says swordfish." in answer
    answer = client.run(opencode, "run", "--continue", "Thank you, that is all.")
    assert "You are welcome." in answer
    assert (client.directory / "seen.txt").read_text() == NOTE
