"""``/admin/hosts`` and ``/engines/join``: who may use them, and what they answer."""

import gzip
import json

import pytest

from vgate.config.joined import JoinedFile
from vgate.config.links import EngineLink
from vgate.config.model import Model
from vgate.config.schema import Security, Server
from vgate.keys import ConfiguredKey

KEYS = [ConfiguredKey(name="boss", key="sk-boss", admin=True), ConfiguredKey(name="a", key="sk-a")]
MODEL = Model(model_id="m", max_model_len=99, served_model_name=["big", "alias"])


@pytest.fixture
def play(serve, tmp_path):
    def run(scenario):
        serve(
            scenario,
            engine=False,
            model=MODEL,
            security=Security(enabled=True, api_keys=KEYS),
            server=Server(state_dir=str(tmp_path / "state")),
            engine_link=EngineLink(keys=str(tmp_path / "keys")),
        )

    return run


async def ask(gateway, method, path, key="boss", **body):
    content = json.dumps(body).encode() if body else b""
    return await gateway.request(method, path, content, authorization=f"Bearer sk-{key}")


async def join(gateway, **body):
    return await gateway.request("POST", "/engines/join", json.dumps(body).encode())


def test_only_an_admin_invites_lists_and_removes(play):
    async def scenario(gateway):
        for method, path in (
            ("POST", "/admin/hosts"),
            ("GET", "/admin/hosts"),
            ("DELETE", "/admin/hosts/x"),
        ):
            assert (await ask(gateway, method, path, key="a")).status == 403
            assert (await gateway.request(method, path)).status == 401

    play(scenario)


def test_a_host_joins_with_a_token_alone(play, tmp_path):
    async def scenario(gateway):
        invited = await ask(gateway, "POST", "/admin/hosts", model="alias")
        assert invited.status == 201
        token = invited.json["token"]
        assert invited.json["model"] == "big"
        assert (invited.json["https"], invited.json["certificate_sha256"]) == (False, None)
        # It asks first, which uses nothing up.
        for _ in range(2):
            told = await join(gateway, token=token)
            assert told.status == 200
            assert told.json["model"]["max_model_len"] == 99
            assert not {"replicas", "devices"} & told.json["model"].keys()
            assert told.json["public_key"] == (tmp_path / "keys/frontend.pub").read_text().strip()
        body = {"name": "box", "addresses": ["tcp://10.0.0.2:5710"], "public_key": "a" * 64}
        assert (await join(gateway, token=token, **body)).status == 200
        again = await join(gateway, token=token, **body)
        assert again.status == 400
        assert "vgate engines invite" in again.error["message"]
        (host,) = (await ask(gateway, "GET", "/admin/hosts")).json["data"]
        assert (host["name"], host["model"]) == ("box", "big")
        assert (await ask(gateway, "DELETE", "/admin/hosts/box")).status == 200
        assert (await ask(gateway, "GET", "/admin/hosts")).json["data"] == []
        assert (await ask(gateway, "DELETE", "/admin/hosts/box")).status == 400
        assert JoinedFile(gateway.config).engines() == []

    play(scenario)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "token"),
        ({"token": 5}, "token"),
        ({"token": "x", "addresses": ["http://a"]}, "addresses[0]"),
        ({"token": "x", "addresses": ["tcp://[gpu-1:5710]:5710"]}, "addresses[0]"),
        ({"token": "x", "addresses": [f"tcp://{'a' * 254}:1"]}, "addresses[0]"),
        ({"token": "x", "addresses": ["tcp://a:1", "tcp://a:65536"]}, "addresses[1]"),
        ({"token": "x", "addresses": ["tcp://a:1\n"]}, "addresses[0]"),
        ({"token": "x", "addresses": ["tcp://a:\u0663"]}, "addresses[0]"),
        ({"token": "x", "name": "a/b"}, "name"),
        ({"token": "x", "public_key": "z"}, "public_key"),
    ],
)
def test_what_is_wrong_is_told(play, body, field):
    async def scenario(gateway):
        refused = await gateway.request("POST", "/engines/join", json.dumps(body).encode())
        assert refused.status == 400
        assert field in refused.error["message"]

    play(scenario)


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_nobody_without_a_key_sends_much(play, encoding):
    async def scenario(gateway):
        body = b'{"token": "x", "more": [' + b"[]," * 30_000 + b"[]]}"
        headers = {}
        if encoding:
            body, headers = gzip.compress(body), {"content_encoding": encoding}
        refused = await gateway.request("POST", "/engines/join", body, **headers)
        assert refused.status == 413
        assert refused.error["message"] == "the body must be at most 65536 bytes"

    play(scenario)


def test_a_model_that_is_served_no_more_is_told(play):
    async def scenario(gateway):
        token = JoinedFile(gateway.config).invite("earlier", 60)
        refused = await join(gateway, token=token)
        assert refused.status == 400
        assert "`earlier`" in refused.error["message"]

    play(scenario)


def test_what_cannot_be_invited_is_told(play):
    async def scenario(gateway):
        assert (await ask(gateway, "POST", "/admin/hosts", model="other")).status == 404
        assert (await ask(gateway, "POST", "/admin/hosts", for_s=0)).status == 400
        assert (await ask(gateway, "POST", "/admin/hosts/x")).status == 405

    play(scenario)
