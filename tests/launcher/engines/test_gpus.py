"""Which GPUs the launcher finds."""

import pytest

from tests.e2e.instance import free_port
from vgate.config import Config, Runtime, local_engines
from vgate.config.model import AdditionalModel, Model
from vgate.config.runtime import VLLM
from vgate.config.schema import Server
from vgate.launcher.checks import Checked
from vgate.launcher.engines.gpus import listed_gpus, sharing, visible_gpus

LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c8c0f5e-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-aaaa)
  MIG 3g.40gb     Device  1: (UUID: MIG-bbbb)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-5c8c0f5e-1111-0000-0000-000000000000)
"""


def test_a_divided_gpu_is_its_parts():
    assert listed_gpus(LISTED) == ["MIG-aaaa", "MIG-bbbb", "1"]
    assert listed_gpus("No devices were found\n") == []


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [("2,3", ["2", "3"]), ("1, GPU-a", ["1", "GPU-a"]), ("", []), ("-1", []), ("0,-1,2", ["0"])],
)
def test_cuda_visible_devices_decides(chosen, gpus):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": chosen, "PATH": ""}) == gpus


@pytest.mark.parametrize(("script", "gpus"), [(f"cat <<E\n{LISTED}E", 3), ("exit 9", 0)])
def test_nvidia_smi_lists_them(tmp_path, script, gpus):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert len(visible_gpus({"PATH": f"{tmp_path}:/bin:/usr/bin"})) == gpus
    assert visible_gpus({"PATH": str(tmp_path / "none")}) == []


@pytest.mark.parametrize(("gpus", "wrong"), [("0", True), ("0,1", False), ("", False)])
def test_a_model_over_more_gpus_than_there_are_is_not_started(
    tmp_path, tiny_model_dir, monkeypatch, gpus, wrong
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    config = Config(
        model=Model(model_id=str(tiny_model_dir), tensor_parallel_size=2),
        server=Server(run_dir=str(tmp_path / "run"), port=free_port()),
    )
    found = Checked(config, VLLM)
    said = ["needs 2 GPUs, and this machine has 1" in each for each in found.wrong]
    assert said == [True] * wrong


@pytest.mark.parametrize(
    ("backend", "chosen", "found"),
    [("vllm", "0", {0, 1}), ("vllm", "", set()), ("dry_run", "0", set())],
)
def test_models_without_gpus_of_their_own_share_what_there_is(
    tmp_path, monkeypatch, backend, chosen, found
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    ray = AdditionalModel(model_id="r", task="generate", distributed_executor_backend="ray")
    config = Config(models=[AdditionalModel(model_id="b", task="generate"), ray])
    engines = local_engines(config, str(tmp_path), [])
    runtime = Runtime(config=config, backend=backend, run_dir=str(tmp_path), engines=engines)
    assert sharing(runtime) == found
