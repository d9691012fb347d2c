"""Claude Code, in print mode."""

from pathlib import Path

import pytest

from tests.clients.conftest import NOTE, ON_BOTH_ENGINES, Client

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("note")]


@ON_BOTH_ENGINES
def test_a_tool_call_and_a_second_turn(client: Client, npm_program):
    claude: Path = npm_program("claude")
    client.export(client.documented("Claude Code"))
    client.environ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    ask = (claude, "--allowedTools=Bash", "--print")
    assert client.run(*ask, "What does note.txt say?") == "The note says swordfish.\n"
    assert client.run(*ask, "--continue", "Thank you, that is all.") == "You are welcome.\n"
    assert (client.directory / "seen.txt").read_text() == NOTE
