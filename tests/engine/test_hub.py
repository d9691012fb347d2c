"""An engine fetches its model from a Hub, here a small one on this machine, and tells how far."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.fake_hub import fake_hub

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 3_000_000, "old.pt": b"x" * 1000}
# As the engine's process does: the library reads its settings when it is imported.
PROGRAM = """
import json, sys
from vgate.config.model import Model
from vgate.engine.backends import hub
from vgate.engine.backends.base import BackendError
from vgate.hub import download, transfer
download._REPORT_EVERY_S = 0.0
transfer._FIRST_WAIT_S = 0.01
free = int(sys.argv[1])
if free:
    download.shutil.disk_usage = lambda _path: type("Usage", (), {"free": free})
phases = []
try:
    directory = hub.fetch(Model(model_id="me/model"), lambda *phase: phases.append(phase))
    print(json.dumps([sorted(path.name for path in directory.iterdir()), phases]))
except BackendError as error:
    print(json.dumps([str(error), error.permanent]))
"""

# The start of an engine with vLLM, which notes whether vLLM is imported.
START = """
import sys
from vgate.config import Config
from vgate.config.model import Model
from vgate.engine.backends import load_backend
from vgate.engine.backends.base import BackendError
from vgate.hub import transfer
transfer._FIRST_WAIT_S = 0.01
phases = []
try:
    config = Config(model=Model(model_id="me/model"))
    load_backend("vllm", config, lambda *phase: phases.append(phase[0]))
except BackendError as error:
    print(error, error.permanent, phases, "vllm" in sys.modules, "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def hub():
    with fake_hub(FILES) as server:
        yield server.url


def fetch(endpoint: str, home: Path, free: int = 0, **variables: str):
    return json.loads(played(PROGRAM, endpoint, home, str(free), **variables))


def played(program: str, endpoint: str, home: Path, *arguments: str, **variables: str) -> str:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **variables}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= variables
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_a_download_tells_how_far_it_is(hub, tmp_path):
    files, phases = fetch(hub, tmp_path)
    assert files == ["config.json", "model.safetensors"]
    assert phases[0] == ["fetching me/model"]
    total = sum(len(FILES[name]) for name in files)
    done = [phase[1] for phase in phases[1:]]
    assert all(phase[2] == total for phase in phases[1:])
    assert done == sorted(done)
    assert done[-1] == total
    # What is in the cache is not fetched again, with or without a Hub.
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert fetch(hub, tmp_path, **variables) == [files, [["fetching me/model"]]]


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub, tmp_path):
    text, permanent = fetch(hub, tmp_path, free=1_000_000)
    assert permanent
    assert text == (
        f"cannot fetch the model me/model: 3.0 MB are missing, and {tmp_path}/hub has room for "
        "1.0 MB: make room, or set HF_HOME to a directory elsewhere"
    )
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_that_is_not_there(hub, tmp_path):
    text, permanent = fetch(hub + "/nowhere", tmp_path)
    assert permanent
    assert "cannot fetch the model me/model" in text
    text, permanent = fetch("http://127.0.0.1:9", tmp_path / "empty")
    assert "cannot fetch the model me/model: http://127.0.0.1:9 can't be reached" in text
    for help_ in ("HTTPS_PROXY", "HF_ENDPOINT", "HF_HUB_OFFLINE=1", "a directory"):
        assert help_ in text
    assert permanent
    text, _ = fetch("http://127.0.0.1:9", tmp_path / "empty", HF_HUB_OFFLINE="1")
    assert "it is not in the cache, and HF_HUB_OFFLINE is set" in text


def test_a_start_that_gets_no_model_does_not_import_vllm(hub, tmp_path):
    for endpoint in ("http://127.0.0.1:9", hub + "/nowhere"):
        told = played(START, endpoint, tmp_path)
        assert told.startswith("cannot fetch the model me/model: ")
        assert "True ['fetching me/model'" in told
        assert told.endswith(" False False\n")
