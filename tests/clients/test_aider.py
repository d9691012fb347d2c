"""aider, which edits files with what it reads from the answer: it has no tools."""

import pytest

from tests.clients.conftest import Client

pytestmark = pytest.mark.clients

QUIET = ("--no-check-update", "--no-show-release-notes", "--no-show-model-warnings")


def test_an_edit_and_a_second_turn(client: Client, python_program):
    aider = python_program("aider", "aider")
    client.export(client.documented("aider"))
    client.environ |= {"AIDER_ANALYTICS_DISABLE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    # It asks GitHub for prices unless it did so today.
    prices = client.home / ".aider" / "caches" / "model_prices_and_context_window.json"
    client.write(prices, '{"none": {}}')
    file = client.write(client.directory / "hello.py", "print('Hello')\n")
    ask = (aider, *QUIET, "--no-git", "--yes-always", "--restore-chat-history", "hello.py")
    client.run(*ask, "--message", "Greet the world.")
    assert file.read_text() == "print('Hello, world')\n"
    answer = client.run(*ask, "--message", "Thank you, that is all.")
    assert "You are welcome." in answer
