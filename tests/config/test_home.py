"""Paths with ``~`` in the configuration."""

import pytest

from vgate.config import load
from vgate.config.home import _PATHS, expand_home
from vgate.config.variables import type_of


def test_paths_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "config.yaml").write_text(
        "server: {state_dir: ~/state, tls: {certificate: ~/a.pem, key: /b.pem}}\n"
        "security: {key_file: ~/keys.jsonl}\n"
        "responses: {file: ~/responses.db}\n"
        "models: [{model_id: m, chat_template: ~/t, lora_adapters: [{name: a, path: ~/lora}]}]\n"
    )
    config = load(
        {"VGATE_CONFIG_PATH": str(tmp_path / "config.yaml"), "VGATE_SERVER__RUN_DIR": "~/run"}
    )
    assert (config.server.state_dir, config.server.run_dir) == ("/home/me/state", "/home/me/run")
    assert (config.server.tls.certificate, config.server.tls.key) == ("/home/me/a.pem", "/b.pem")
    assert config.security.key_file == "/home/me/keys.jsonl"
    assert config.responses.file == "/home/me/responses.db"
    assert config.model.chat_template == "/home/me/t"
    assert config.model.lora_adapters[0].path == "/home/me/lora"


@pytest.mark.parametrize(
    "value",
    [None, 5, "~", [], [None, "~"], {"tls": None, "run_dir": 5}, {"lora_adapters": {"path": []}}],
)
def test_what_has_another_type_is_left_for_the_check(value):
    document = {"server": value, "model": value, "models": value}
    expand_home(document)
    assert document == {"server": value, "model": value, "models": value}


def test_what_is_no_path_is_left_alone():
    document = {"security": {"api_keys": [{"key": "~secret"}]}, "model": {"model_id": "~/m"}}
    expand_home(document)
    assert document["security"]["api_keys"][0]["key"] == "~secret"
    assert document["model"]["model_id"] == "~/m"


def test_the_paths_are_settings():
    lists = {"models", "additional_models", "lora_adapters"}
    for sections, keys in _PATHS:
        for key in keys:
            steps = [f"{name}[]" if name in lists else name for name in sections]
            assert type_of([*steps, key]) is not None, (sections, key)
