"""Which names the server answers to."""

import pytest

from tests.frontend.gateway import chat_body
from vgate.config.schema import Security, Server
from vgate.keys import ConfiguredKey

CHAT = "/v1/chat/completions"
LOCAL = [
    "localhost",
    "LOCALHOST:8000",
    "vgate.localhost:80",
    "127.0.0.1:8000",
    "127.1.2.3",
    "[::1]:8000",
]
OTHER = [
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "192.168.1.5",
    "",
]
SECURITY = Security(enabled=True, api_keys=[ConfiguredKey(name="k", key="sk")])


def statuses(serve, names, **sections):
    """Return the statuses of chats that ask for each name."""
    found = {}

    async def scenario(gateway):
        for name in names:
            answer = await gateway.request(
                "POST", CHAT, chat_body(gateway, "x"), host=name, authorization="Bearer sk"
            )
            found[name] = answer.status
            if answer.status == 403:
                assert answer.error["code"] == "forbidden"
                assert "server.allowed_hosts" in answer.error["message"]

    serve(scenario, **sections)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_local_server_answers_to_local_names(serve, host):
    found = statuses(serve, LOCAL + OTHER, server=Server(host=host))
    assert found == dict.fromkeys(LOCAL, 200) | dict.fromkeys(OTHER, 403)


def test_names_that_the_operator_allows(serve):
    server = Server(allowed_hosts=["Evil.example", "192.168.1.5:8000"])
    found = statuses(serve, [*LOCAL, *OTHER, "192.168.1.5:8000"], server=server)
    allowed = {name for name, status in found.items() if status == 200}
    assert allowed == {*LOCAL, "evil.example", "evil.example:80", "192.168.1.5:8000"}


@pytest.mark.parametrize(
    "sections",
    [
        {"server": Server(host="0.0.0.0")},
        {"security": SECURITY},
        {"server": Server(allowed_hosts=["*"])},
    ],
)
def test_any_name_where_other_machines_connect_or_a_key_is_needed(serve, sections):
    assert set(statuses(serve, OTHER, **sections).values()) == {200}


def test_a_request_without_a_name_is_no_browsers(serve):
    async def scenario(gateway):
        assert (await gateway.request("GET", "/health")).status == 200

    serve(scenario)
