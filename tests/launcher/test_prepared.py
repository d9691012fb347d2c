"""What a configuration needs beside its values is said before anything starts."""

import pytest

from vgate.config import Config, ConfigError
from vgate.config.schema import Responses, Server, Tracing
from vgate.launcher import prepared


@pytest.mark.parametrize("protocol", ["http", "grpc", None])
def test_traces_need_their_packages(monkeypatch, protocol):
    config = Config(tracing=Tracing(endpoint="http://127.0.0.1:4318", protocol=protocol))
    assert prepared.prepared(config).tracing == config.tracing
    searched = []

    def missing(name):
        searched.append(name)
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(prepared, "find_spec", missing)
    with pytest.raises(ConfigError, match=r"pip install 'vgate\[otel\]'"):
        prepared.prepared(config)
    assert prepared.prepared(Config()).tracing == Tracing()
    monkeypatch.setattr(prepared, "find_spec", lambda name: name == "opentelemetry.sdk")
    with pytest.raises(ConfigError, match=r"tracing\.endpoint"):
        prepared.prepared(config)
    assert searched == ["opentelemetry.sdk"]


def test_stored_responses_outlive_the_instance_where_they_can(tmp_path):
    def file_of(state_dir, **responses):
        server = Server(state_dir=str(state_dir), port=8123)
        config = Config(server=server, responses=Responses(**responses))
        return prepared.prepared(config).responses.file

    state = tmp_path / "lasting" / "state"
    # Two instances of a user have a file each.
    assert file_of(state) == str(state / "responses-8123.db")
    assert file_of(state, file="mine.db") == "mine.db"
    assert file_of(state, store=False) is None
    state.parent.touch()
    assert file_of(state) is None
