"""The Vercel AI SDK with each of its providers for such a server: runs javascript/ai_sdk.mjs."""

import json
import shutil

import pytest

from tests.clients.conftest import Client
from tests.clients.installing import JAVASCRIPT

pytestmark = pytest.mark.clients

PROVIDERS = ("openai", "openai.chat", "openai.responses", "compatible", "anthropic")
outcomes: dict[str, str] = {}


@pytest.fixture
def errors(client: Client) -> dict[str, str]:
    """The errors of the cases, by name; all run at once, the first time."""
    node, packages = shutil.which("node"), JAVASCRIPT / "node_modules"
    if node is None or not (packages / "ai").is_dir():
        pytest.skip("the AI SDK is not installed: run bin/test --clients")
    if not outcomes:
        client.write(client.directory / "connect.mjs", client.documented("Vercel AI SDK"))
        (client.directory / "node_modules").symlink_to(packages)
        shutil.copy(JAVASCRIPT / "ai_sdk.mjs", client.directory)
        output = client.run(node, "ai_sdk.mjs")
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"case":')]
        outcomes.update({line["case"]: line["error"] for line in lines})
    return outcomes


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_call_and_a_second_turn(errors: dict[str, str], provider: str, way: str):
    error = errors[f"{provider} {way}"]
    assert not error, error
