"""``/admin/keys``: who may use it, what it shows, and that it edits as `vgate keys` does."""

import asyncio
import json

import pytest
from msgspec.structs import replace

from vgate.config.schema import RateLimiting, Security, Server
from vgate.key_file import KeyFile
from vgate.keys import ApiKey, ConfiguredKey, read_key_file

CONFIGURED = [
    ConfiguredKey(name="boss", key="sk-boss", admin=True, rate_limit=2),
    ConfiguredKey(name="alice", key="sk-alice"),
]


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys.jsonl"


@pytest.fixture
def security(key_file):
    limiting = RateLimiting(default_limit=5)
    return Security(
        enabled=True, api_keys=CONFIGURED, key_file=str(key_file), rate_limiting=limiting
    )


async def ask(gateway, method, path="/admin/keys", key="boss", **body):
    content = json.dumps(body).encode() if body else b""
    return await gateway.request(method, path, content, authorization=f"Bearer sk-{key}")


def test_only_an_admins_key_may(serve, security):
    async def scenario(gateway):
        for method, path in (
            ("GET", "/admin/keys"),
            ("POST", "/admin/keys"),
            ("DELETE", "/admin/keys/x"),
            ("POST", "/admin/keys/x/rotate"),
        ):
            refused = await ask(gateway, method, path, key="alice")
            assert (refused.status, refused.error["code"]) == (403, "forbidden")
            assert "--admin" in refused.error["message"]
            assert (await gateway.request(method, path)).status == 401

    serve(scenario, engine=False, security=security)


@pytest.mark.parametrize("path", ["/admin/keys", "/admin/keys/boss"])
def test_an_exempt_path_is_not_open_to_all(serve, security, path):
    async def scenario(gateway):
        assert (await gateway.request("DELETE", "/admin/keys/boss")).status in {401, 403}
        assert (await gateway.request("GET", path)).status in {401, 403, 405}

    security = replace(security, exempt_paths=[path])
    serve(scenario, engine=False, security=security)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("0.0.0.0", 403)])
def test_without_keys_a_local_server_is_open(serve, host, status):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/admin/keys")
        assert answer.status == status
        if status == 403:
            assert "security.enabled" in answer.error["message"]

    serve(scenario, engine=False, server=Server(host=host))


def test_it_lists_what_keys_may_and_use(serve, security, key_file):
    KeyFile(key_file).add(ApiKey("bob", "0" * 64, rate_limit=7, group="g"))

    async def scenario(gateway):
        await gateway.request("GET", "/version", authorization="Bearer sk-alice")
        for _ in range(4):  # more than its limit, which this doesn't count towards
            answer = await ask(gateway, "GET")
        assert answer.status == 200
        assert answer.json["object"] == "list"
        rows = {row["name"]: row for row in answer.json["data"]}
        assert list(rows) == ["boss", "alice", "bob"]
        assert rows["boss"]["admin"] is True
        assert rows["boss"]["used"] == dict.fromkeys(
            ("requests", "tokens", "concurrent", "budget_tokens"), 0
        )
        assert rows["alice"]["used"]["requests"] == 1
        assert [row["editable"] for row in rows.values()] == [False, False, True]
        assert (rows["bob"]["rate_limit"], rows["bob"]["group"]) == (7, "g")
        assert rows["bob"]["created"]
        assert b"sha256" not in answer.body

    serve(scenario, engine=False, security=security)


def test_a_key_is_added_rotated_and_revoked(serve, security, key_file):
    name = "team ä/1"

    async def status(gateway, secret):
        answer = await gateway.request("GET", "/v1/models", authorization=f"Bearer {secret}")
        return answer.status

    async def becomes(gateway, secret, wanted):
        for _ in range(1000):
            if await status(gateway, secret) == wanted:
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"never: {wanted}")

    async def scenario(gateway):
        added = await ask(gateway, "POST", name=name, tokens_per_minute=900)
        assert added.status == 201
        assert added.json["name"] == name
        (key,) = read_key_file(key_file)
        assert (key.name, key.tokens_per_minute) == (name, 900)
        first = added.json["key"]
        await becomes(gateway, first, 200)
        rotated = await ask(gateway, "POST", f"/admin/keys/{name}/rotate")
        second = rotated.json["key"]
        await becomes(gateway, second, 200)
        assert await status(gateway, first) == 401
        deleted = await ask(gateway, "DELETE", f"/admin/keys/{name}")
        assert deleted.json == {"name": name, "deleted": True}
        await becomes(gateway, second, 401)
        assert read_key_file(key_file) == []

    free = Security(
        enabled=True,
        api_keys=CONFIGURED,
        key_file=str(key_file),
        rate_limiting=RateLimiting(enabled=False),
    )
    serve(scenario, engine=False, security=free)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x", "rate_limit": 0}, "rate_limit"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "x", "group": "a\n"}, "group"),
        ({"name": "x", "models": ["m"] * 257}, "models"),
        ({"name": "x", "models": ["m" * 1025]}, "models[0]"),
        ({"rate_limit": 3}, "name"),
        ({"name": "x", "limit": 3}, "limit"),
        ({"name": "x", "sha256": "0" * 64}, "sha256"),
        ({"name": "alice"}, "name"),
        ({"name": "bob"}, "name"),
    ],
)
def test_a_wrong_key_is_explained(serve, security, key_file, body, param):
    KeyFile(key_file).add(ApiKey("bob", "0" * 64))

    async def scenario(gateway):
        refused = await ask(gateway, "POST", **body)
        assert (refused.status, refused.error["param"]) == (400, param)
        assert param in refused.error["message"] or "already" in refused.error["message"]

    serve(scenario, engine=False, security=security)
    assert len(read_key_file(key_file)) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"name": "x", "weight": 1e400}', "weight"),
        (b'{"name": "x", "models": %s%s}' % (b"[" * 5000, b"]" * 5000), "models[0]"),
        (b'{"name": "x", "deep": %s}' % (b"[" * 5000), "deep"),
        (b'{"name": 1, "rest": ', "name"),
    ],
)
def test_a_body_that_json_can_not_be_read_of(serve, security, body, param):
    async def scenario(gateway):
        path, bearer = "/admin/keys", "Bearer sk-boss"
        refused = await gateway.request("POST", path, body, authorization=bearer)
        assert (refused.status, refused.error["param"]) == (400, param)

    serve(scenario, engine=False, security=security)


def test_a_slash_at_the_end_of_a_name_is_part_of_it(serve, security, key_file):
    for name in ("a", "a/"):
        KeyFile(key_file).add(ApiKey(name, "0" * 64))

    async def scenario(gateway):
        assert (await ask(gateway, "DELETE", "/admin/keys/a/")).json["name"] == "a/"
        assert [key.name for key in read_key_file(key_file)] == ["a"]
        assert (await ask(gateway, "DELETE", "/admin/keys/a/")).status == 404

    serve(scenario, engine=False, security=security)


def test_what_can_not_be_changed_says_what_to_do(serve, security, key_file):
    async def scenario(gateway):
        for method, path, status, words in (
            ("DELETE", "/admin/keys/alice", 400, "security.api_keys"),
            ("POST", "/admin/keys/alice/rotate", 400, "security.api_keys"),
            ("DELETE", "/admin/keys/nobody", 404, "no key `nobody`"),
            ("POST", "/admin/keys/nobody", 405, "/rotate"),
        ):
            refused = await ask(gateway, method, path)
            assert (refused.status, words in refused.error["message"]) == (status, True), path
        invalid = await gateway.request("POST", "/admin/keys", b"{", authorization="Bearer sk-boss")
        assert (invalid.status, invalid.error["code"]) == (400, "invalid_json")
        key_file.write_text("{broken")
        broken = await ask(gateway, "POST", name="x")
        assert (broken.status, "line 1" in broken.error["message"]) == (500, True)

    serve(scenario, engine=False, security=security)


def test_without_a_key_file_there_is_nothing_to_edit(serve):
    async def scenario(gateway):
        refused = await ask(gateway, "POST", name="x")
        assert refused.status == 400
        assert "security.key_file" in refused.error["message"]

    serve(scenario, engine=False, security=Security(enabled=True, api_keys=CONFIGURED))
