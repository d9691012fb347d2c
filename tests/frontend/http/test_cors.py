"""Which pages may use the server, and what browsers are told."""

import pytest

from tests.frontend.gateway import chat_body
from vgate.config.schema import Security, Server
from vgate.frontend.http import Cors
from vgate.keys import ConfiguredKey

CHAT = "/v1/chat/completions"
LOCAL = [
    "http://localhost",
    "http://localhost:3000",
    "https://app.localhost:5173",
    "http://127.0.0.1:8080",
    "http://127.8.9.1",
    "http://[::1]:3000",
    "app://obsidian.md",
    "tauri://localhost",
    "vscode-webview://0a1b2c",
    "capacitor://localhost",
]
OTHER = [
    "https://example.com",
    "http://localhost.example.com",
    "http://127.0.0.1.example.com",
    "http://1127.0.0.1",
    "http://192.168.1.5",
    "http://evil.com/?http://localhost",
    "http://localhost:3000.evil.com",
    "null",
    "",
]


class TestRule:
    @pytest.mark.parametrize("origin", LOCAL)
    def test_local_pages_need_no_key(self, origin):
        assert Cors(None, key_required=False).allows(origin)

    @pytest.mark.parametrize("origin", OTHER)
    def test_other_pages_do(self, origin):
        assert not Cors(None, key_required=False).allows(origin)
        assert Cors(None, key_required=True).allows(origin)

    @pytest.mark.parametrize("key_required", [True, False])
    def test_the_configuration_comes_first(self, key_required):
        some = Cors(["https://a.example"], key_required=key_required)
        assert some.allows("https://a.example")
        assert not some.allows("https://b.example")
        assert not some.allows("http://localhost")
        assert Cors(["*"], key_required=key_required).allows("https://b.example")
        assert not Cors([], key_required=key_required).allows("http://localhost")


def test_a_page_reads_the_answer(serve):
    async def scenario(gateway):
        body = chat_body(gateway, "x")
        for stream in (False, True):
            body = chat_body(gateway, "x", stream=stream)
            answer = await gateway.request("POST", CHAT, body, origin=LOCAL[1])
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == LOCAL[1]
            assert answer.headers["vary"] == "origin"
        refused = await gateway.request("POST", CHAT, b"{", origin=LOCAL[1])
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (400, LOCAL[1])
        answer = await gateway.request("POST", CHAT, body)
        assert "access-control-allow-origin" not in answer.headers

    serve(scenario)


def test_a_page_from_elsewhere_spends_nothing(serve):
    async def scenario(gateway):
        # What a page may send without asking first.
        body = chat_body(gateway, "x")
        answer = await gateway.request(
            "POST", CHAT, body, origin=OTHER[0], content_type="text/plain"
        )
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert "server.cors_allow_origins" in answer.error["message"]
        assert "access-control-allow-origin" not in answer.headers
        preflight = await gateway.request(
            "OPTIONS", CHAT, origin=OTHER[0], access_control_request_method="POST"
        )
        assert preflight.status == 403

    serve(scenario)


SIMPLE = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]


@pytest.mark.parametrize("content_type", SIMPLE)
def test_what_a_page_sends_without_asking_is_refused(serve, content_type):
    async def scenario(gateway):
        body = chat_body(gateway, "x")
        for site in ({"origin": "null"}, {"sec_fetch_site": "cross-site"}):
            answer = await gateway.request("POST", CHAT, body, content_type=content_type, **site)
            assert (answer.status, answer.error["code"]) == (403, "forbidden")
        # Programs that don't say what their body is, such as curl, are served.
        answer = await gateway.request("POST", CHAT, body, content_type=content_type)
        assert answer.status == 200

    serve(scenario)


def test_an_image_of_another_site_is_refused_and_a_link_followed(serve):
    async def scenario(gateway):
        async def get(site, mode, dest):
            headers = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}
            return (await gateway.request("GET", "/v1/models", **headers)).status

        assert await get("cross-site", "no-cors", "image") == 403
        assert await get("cross-site", "navigate", "iframe") == 403
        assert await get("cross-site", "navigate", "document") == 200
        assert await get("same-origin", "cors", "empty") == 200
        assert await get("none", "navigate", "document") == 200

    serve(scenario)


def test_any_site_may_show_an_image_where_any_page_is_let_in(serve):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/v1/models", sec_fetch_site="cross-site")
        assert answer.status == 200

    serve(scenario, server=Server(cors_allow_origins=["*"]))


def test_browsers_ask_without_a_key(serve):
    async def scenario(gateway):
        answer = await gateway.request(
            "OPTIONS",
            CHAT,
            origin="https://example.com",
            access_control_request_method="POST",
            access_control_request_headers="authorization, x-stainless-os",
        )
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://example.com"
        assert answer.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
        assert "POST" in answer.headers["access-control-allow-methods"]
        answer = await gateway.request("POST", CHAT, b"{}", origin="https://example.com")
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == "https://example.com"
        # Not a browser's question.
        assert (await gateway.request("OPTIONS", CHAT)).status in {401, 405}

    key = ConfiguredKey(key="sk-page", name="page")
    serve(scenario, security=Security(enabled=True, api_keys=[key]))


def test_allowed_origins_are_configured(serve):
    async def scenario(gateway):
        for origin, status in (("https://a.example", 200), ("http://localhost", 403)):
            answer = await gateway.request("GET", "/v1/models", origin=origin)
            assert answer.status == status

    serve(scenario, server=Server(cors_allow_origins=["https://a.example"]))
