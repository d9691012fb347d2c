"""OpenAI's Codex CLI."""

from pathlib import Path

import pytest

from tests.clients.conftest import NOTE, ON_BOTH_ENGINES, Client

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("note")]

# Its telemetry is off where a user may leave it on; the rest is what the documentation says.
QUIET = "check_for_update_on_startup = false\nanalytics.enabled = false\nfeatures.plugins = false\n"
# The sandbox needs rights that a container has not.
EXEC = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")


@ON_BOTH_ENGINES
def test_a_tool_call_and_a_second_turn(client: Client, npm_program):
    codex: Path = npm_program("codex")
    settings = client.documented("Codex CLI")
    client.write(client.home / ".codex" / "config.toml", QUIET + settings)
    answer = client.run(codex, *EXEC, "What does note.txt say?")
    assert "the secret is swordfish" in answer
    assert "The note says swordfish." in answer
    answer = client.run(codex, *EXEC, "resume", "--last", "Thank you, that is all.")
    assert "You are welcome." in answer
    assert (client.directory / "seen.txt").read_text() == NOTE
