"""What a configuration needs beside its values is said before anything starts."""

import pytest

from vgate.config import Config, ConfigError
from vgate.config.schema import Tracing
from vgate.launcher import prepared


@pytest.mark.parametrize("protocol", ["http", "grpc", None])
def test_traces_need_their_packages(monkeypatch, protocol):
    config = Config(tracing=Tracing(endpoint="http://127.0.0.1:4318", protocol=protocol))
    assert prepared.prepared(config) == config
    searched = []

    def missing(name):
        searched.append(name)
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(prepared, "find_spec", missing)
    with pytest.raises(ConfigError, match=r"pip install 'vgate\[otel\]'"):
        prepared.prepared(config)
    assert prepared.prepared(Config()) == Config()
    monkeypatch.setattr(prepared, "find_spec", lambda name: name == "opentelemetry.sdk")
    with pytest.raises(ConfigError, match=r"tracing\.endpoint"):
        prepared.prepared(config)
    assert searched == ["opentelemetry.sdk"]
