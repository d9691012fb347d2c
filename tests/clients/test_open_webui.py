"""Open WebUI's server, through the API that its pages use."""

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.conftest import Client
from tests.e2e.instance import free_port, wait_until

# Its first start takes most of a minute, and more on a busy machine.
pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

START_TIMEOUT_S = 240
QUESTION = "What is the weather in Paris?"
TOOL = '''
class Tools:
    def get_weather(self, city: str) -> str:
        """
        The weather in a city.
        :param city: The city.
        """
        return f"sunny in {city}"
'''
# What its page for a model offers, with the names and values that it has there.
PARAMETERS = {
    "function_calling": "native",
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "reasoning_effort": "high",
    "num_ctx": 4096,
    "num_predict": 200,
    "repeat_penalty": 1.1,
    "mirostat": 0,
    "keep_alive": "5m",
    "custom_params": {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": False}},
}
QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "OFFLINE_MODE": "True",
    "SCARF_NO_ANALYTICS": "true",
    # Its own embedding model would be downloaded.
    "RAG_EMBEDDING_ENGINE": "openai",
}


@pytest.fixture
def webui(client: Client, python_program) -> Iterator[httpx.Client]:
    """A client of a new server, signed in."""
    port, log = free_port(), client.directory / "log"
    command = [python_program("open_webui", "open-webui"), "serve", "--port", str(port)]
    client.export(client.documented("Open WebUI"))
    client.environ |= {**QUIET, "DATA_DIR": str(client.directory), "WEBUI_AUTH": "False"}
    client.environ["WEBUI_SECRET_KEY"] = "secret"
    with (
        log.open("wb") as file,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1"],
            cwd=client.directory,
            env=client.environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        try:

            def healthy() -> bool:
                assert server.poll() is None, log.read_text()
                try:
                    return http.get("/health").is_success
                except httpx.TransportError:
                    return False

            wait_until(healthy, START_TIMEOUT_S, "Open WebUI serves")
            token = http.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()
            http.headers["Authorization"] = f"Bearer {token['token']}"
            yield http
        finally:
            server.terminate()
            server.wait(30)


def create(webui: httpx.Client, kind: str, **fields: Any) -> None:
    answer = webui.post(f"/api/v1/{kind}/create", json=fields)
    assert answer.is_success, answer.text


def say(webui: httpx.Client, chat: str, said: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """Send a message as its page does; return the answer that the server stored."""
    question, answer = f"question-{number}", f"answer-{number}"
    user = {"id": question, **said[-1], "parentId": None, "childrenIds": [answer]}
    reply = {"id": answer, "role": "assistant", "content": "", "parentId": question}
    stored = webui.get(f"/api/v1/chats/{chat}").json()["chat"]
    messages = stored.setdefault("history", {}).setdefault("messages", {})
    messages |= {question: user, answer: {**reply, "childrenIds": [], "model": "assistant"}}
    stored["history"]["currentId"] = answer
    assert webui.post(f"/api/v1/chats/{chat}", json={"chat": stored}).is_success
    body = {
        "model": "assistant",
        "stream": True,
        "messages": said,
        "tool_ids": ["weather"],
        "chat_id": chat,
        "id": answer,
        "session_id": "session",
        "parent_id": question,
        "user_message": user,
        "background_tasks": {"title_generation": True},
    }
    started = webui.post("/api/chat/completions", json=body)
    assert started.is_success, started.text
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        chat_now = webui.get(f"/api/v1/chats/{chat}").json()["chat"]
        message: dict[str, Any] = chat_now["history"]["messages"][answer]
        if message.get("done") or message.get("error"):
            return message
        time.sleep(0.1)
    raise AssertionError(f"no answer: {message}")


def test_a_tool_call_and_a_second_turn_with_common_settings(webui: httpx.Client):
    create(webui, "tools", id="weather", name="Weather", content=TOOL, meta={"description": "w"})
    create(
        webui,
        "models",
        id="assistant",
        base_model_id="my-model",
        name="Assistant",
        meta={"toolIds": ["weather"]},
        params=PARAMETERS,
    )
    names = {model["id"] for model in webui.get("/api/models").json()["data"]}
    assert {"my-model", "assistant"} <= names
    new = {"title": "t", "models": ["assistant"], "history": {"messages": {}}}
    chat = webui.post("/api/v1/chats/new", json={"chat": new}).json()["id"]
    said = [{"role": "user", "content": QUESTION}]
    first = say(webui, chat, said, 1)
    assert not first.get("error"), first
    assert "It is sunny in Paris." in first["content"]
    said += [{"role": "assistant", "content": first["content"]}]
    said += [{"role": "user", "content": "Thank you, that is all."}]
    second = say(webui, chat, said, 2)
    assert "You are welcome." in second["content"], second
