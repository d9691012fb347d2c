"""The configuration is shown without secrets."""

import os

import pytest

from vgate.config import Config, ConfigError, load, masked
from vgate.config.model import Model
from vgate.config.schema import Security, State
from vgate.keys import ConfiguredKey


def test_api_keys_are_hidden_and_their_names_are_not():
    keys = [
        ConfiguredKey(key="sk-secret-1", name="alice"),
        ConfiguredKey(key="sk-secret-2", name="bob"),
    ]
    document = masked(Config(security=Security(enabled=True, api_keys=keys)))
    assert "sk-secret" not in repr(document)
    assert [entry["name"] for entry in document["security"]["api_keys"]] == ["alice", "bob"]


@pytest.mark.parametrize("name", ["key", "password", "token", "hf_token", "api_key"])
def test_secrets_in_engine_args_are_hidden_at_any_depth(name):
    args = {name: "secret-value", "inner": [{"x": {name: "secret-value"}}], "seed": 1}
    document = masked(Config(model=Model(engine_args=args)))
    assert "secret-value" not in repr(document)
    assert document["model"]["engine_args"]["seed"] == 1


def test_everything_else_is_shown():
    document = masked(Config())
    assert document["server"]["port"] == 8000
    assert set(document) == set(Config.__struct_fields__)


def test_an_empty_secret_is_shown_as_empty():
    assert masked(Config(model=Model(engine_args={"token": None})))["model"]["engine_args"] == {
        "token": None
    }


@pytest.mark.parametrize(
    "url",
    [
        "valkey://:secret@host:6379/0",
        "rediss://user:secret@host",
        "redis://:se/cret@se@host",
        "unix://user@/path.sock?password=secret&db=1",
    ],
)
def test_who_a_url_says_one_is_is_hidden(url):
    shown = masked(Config(state=State(url=url)))["state"]["url"]
    assert "cret" not in shown
    assert shown.startswith(url.partition("://")[0])
    assert masked(Config(state=State(url="valkey://host")))["state"]["url"] == "valkey://host"


def test_a_wrong_url_is_not_shown():
    with pytest.raises(ConfigError) as error:
        load({"VGATE_STATE__URL": "http://:secret@host", "VGATE_CONFIG_PATH": os.devnull})
    assert "secret" not in str(error.value)
