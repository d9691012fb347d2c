"""The configuration is shown without secrets."""

import pytest

from vgate.config import Config, masked
from vgate.config.schema import Model, Security
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
