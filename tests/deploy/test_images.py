"""The Dockerfile's promises, and the program that its builds run."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.deploy.files import ROOT, Stage, stages
from tests.e2e.instance import Instance, free_port

TARGETS = ("vgate-cpu", "vgate-gpu")
HEALTH = ROOT / "deploy" / "docker" / "health.py"
REQUIREMENTS = ROOT / "deploy" / "docker" / "requirements.py"


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Stage:
    return stages()[request.param]


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    spec = util.spec_from_file_location("image_requirements", REQUIREMENTS)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_base_image_is_pinned():
    found = stages()
    for stage in found.values():
        if stage.image not in found:
            _, _, tag = stage.image.partition(":")
            assert tag, stage.image
            assert "latest" not in tag


def test_vllm_is_the_version_that_the_engine_is_written_for():
    (extra,) = project()["optional-dependencies"]["vllm"]
    assert stages()["vgate-gpu"].image == f"vllm/vllm-openai:v{extra.removeprefix('vllm==')}"


def test_the_base_image_has_a_supported_python():
    version = stages()["vgate-cpu"].image.removeprefix("python:").partition("-")[0]
    assert f"Programming Language :: Python :: {version}" in project()["classifiers"]


def test_targets_run_as_the_same_numbered_user(target: Stage):
    assert target.last("USER") == "10001:10001"
    # The last word on the user comes after all that needs root.
    after = target.steps[target.steps.index(("USER", "10001:10001")) :]
    assert not {"RUN", "COPY"} & {instruction for instruction, _ in after}


def test_targets_start_vgate_without_a_shell_and_end_with_sigterm(target: Stage):
    assert json.loads(target.last("ENTRYPOINT") or "") == ["vgate"]
    assert target.last("STOPSIGNAL") == "SIGTERM"


def test_targets_check_their_health_where_they_serve(target: Stage):
    options, _, command = (target.last("HEALTHCHECK") or "").partition(" CMD ")
    assert json.loads(command) == ["python3", "-I", "/usr/local/lib/vgate/health.py"]
    assert "deploy/docker/health.py /usr/local/lib/vgate/" in target.all("COPY")
    assert "--start-period=" in options
    assert target.last("EXPOSE") == target.environment["VGATE_SERVER__PORT"] == "8000"
    assert target.environment["VGATE_SERVER__HOST"] == "0.0.0.0"


def test_only_the_cpu_target_simulates():
    assert stages()["vgate-cpu"].environment["VGATE_DRY_RUN"] == "1"
    assert "VGATE_DRY_RUN" not in stages()["vgate-gpu"].environment


def test_the_start_period_covers_a_models_load():
    assert "--start-period=30m" in (stages()["vgate-gpu"].last("HEALTHCHECK") or "")


def test_nothing_is_installed_with_a_cache_or_without_bounds():
    for stage in stages().values():
        for text in stage.all("RUN"):
            if " install " in text and "pip" in text:
                assert "--no-cache-dir" in text
                assert "--no-deps" in text or " -r " in text
    (beside_vllm,) = [text for text in stages()["vgate-gpu"].all("RUN") if " -r " in text]
    assert "-c /tmp/held.txt" in beside_vllm
    assert '"vllm==${VLLM_VERSION}"' in beside_vllm


def test_the_builder_gets_what_is_copied_and_nothing_at_the_root_besides():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    for path in wanted:
        assert (ROOT / path).exists(), path
    for stage in stages().values():
        for text in stage.all("COPY"):
            if not text.startswith("--from="):
                for source in text.split()[:-1]:
                    path = Path(source)
                    assert {path.as_posix().removeprefix("./"), path.parent.as_posix()} & wanted


def test_the_light_requirements_are_the_projects_and_those_of_shared_state():
    command = [sys.executable, "-I", REQUIREMENTS, "light", ROOT / "pyproject.toml"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shared = project()["optional-dependencies"]["state"]
    assert printed.splitlines() == [*project()["dependencies"], *shared]
    lock = (ROOT / "bin/state-requirements.txt").read_text()
    assert "bin/state-requirements.txt" in " ".join(stages()["cpu-environment"].all("RUN"))
    assert all(f"\n{name.partition('>')[0]}==" in lock for name in shared)


def test_what_is_installed_is_held_except_what_is_required(requirements: ModuleType):
    wanted = ["prometheus-client>=0.26.0", "PyYAML", "granian>=2.8.7,<3"]
    installed = [
        ("torch", "2.13.0+cu130"),
        ("prometheus_client", "0.20.0"),
        ("pyyaml", "6.0"),
        ("Flash.Infer_Python", "0.6.1.post2"),
        ("vllm", "0.32.0"),
        # A distribution's system packages come later on the path.
        ("torch", "1.8.1"),
        ("distro-info", "1.1build1"),
        (None, None),
    ]
    assert requirements.held(wanted, installed) == [
        "flash-infer-python==0.6.1.post2",
        "torch==2.13.0+cu130",
        "vllm==0.32.0",
    ]


def check_health(port: int) -> int:
    # A proxy that answers nothing: the check must not ask it.
    environment = {
        **os.environ,
        "VGATE_SERVER__PORT": str(port),
        "http_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-I", HEALTH]
    return subprocess.run(
        command, env=environment, stderr=subprocess.DEVNULL, check=False
    ).returncode


def test_the_health_check_tells_a_server_from_none(dry_run: Instance):
    assert check_health(dry_run.port) == 0
    assert check_health(free_port()) != 0
