"""The launcher's settings reach its children unchanged, and only this user can read them."""

import stat

import msgspec
import pytest

from vgate.config import Config, Runtime, local_engines
from vgate.config.model import Model
from vgate.config.schema import Security, Server
from vgate.keys import ConfiguredKey


@pytest.fixture
def runtime(tmp_path):
    config = Config(
        server=Server(port=1234, run_dir=str(tmp_path)),
        model=Model(served_model_name=["a", "ü"], engine_args={"x": [1, {"y": None}]}),
        security=Security(api_keys=[ConfiguredKey(key="k", name="n", rate_limit=3)]),
    )
    return Runtime(
        config=config,
        backend="dry_run",
        run_dir=str(tmp_path),
        engines=local_engines(config, str(tmp_path)),
        started=1.5,
    )


def test_it_is_read_as_it_was_written(runtime, tmp_path):
    runtime.write()
    assert Runtime.read(str(tmp_path)) == runtime


def test_only_its_user_can_read_it(runtime, tmp_path):
    runtime.write()
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]


def test_writing_again_replaces_it(runtime, tmp_path):
    runtime.write()
    changed = msgspec.structs.replace(runtime, backend="vllm")
    changed.write()
    assert Runtime.read(str(tmp_path)) == changed


def test_the_endpoints_are_in_the_run_directory(runtime, tmp_path):
    endpoints = {
        runtime.engines[0].address,
        runtime.endpoint("control"),
        runtime.endpoint("publish"),
        runtime.endpoint("subscribe"),
    }
    assert len(endpoints) == 4
    assert all(endpoint.startswith(f"ipc://{tmp_path}/") for endpoint in endpoints)


def test_a_damaged_file_is_an_error(runtime, tmp_path):
    runtime.write()
    (tmp_path / "runtime.json").write_text('{"backend": 1}')
    with pytest.raises(msgspec.ValidationError):
        Runtime.read(str(tmp_path))
