"""How many replicas a model has, and on which GPUs."""

import pytest

from vgate.config import Config, ConfigError, Runtime, local_engines
from vgate.config.devices import place, uses_devices
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import DryRun

FOUR = ["0", "1", "2", "3"]


def config(*additional, **model):
    others = [AdditionalModel(task="generate", **other) for other in additional]
    return Config(model=Model(model_id="big", **model), additional_models=others)


def problem(made, gpus):
    with pytest.raises(ConfigError) as found:
        place(made, gpus)
    return str(found.value)


def test_models_without_replicas_are_left_to_vllm():
    made = config({"model_id": "small"})
    assert not uses_devices(made)
    assert place(made, FOUR) == [[()], [()]]


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        ({"replicas": 2}, [("0",), ("1",)]),
        ({"replicas": "auto"}, [("0",), ("1",), ("2",), ("3",)]),
        ({"replicas": "auto", "tensor_parallel_size": 2}, [("0", "1"), ("2", "3")]),
        (
            {"replicas": "auto", "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            [("0", "1", "2", "3")],
        ),
        ({"replicas": 2, "devices": [3, 1]}, [("3",), ("1",)]),
        ({"devices": [2]}, [("2",)]),
        ({"replicas": "auto", "devices": [2, 3]}, [("2",), ("3",)]),
        ({"replicas": 2, "devices": ["GPU-a", "GPU-b"]}, [("GPU-a",), ("GPU-b",)]),
        # Small models may share a GPU.
        ({"replicas": 2, "devices": [0, 0]}, [("0",), ("0",)]),
    ],
)
def test_each_replica_gets_devices_of_its_own(settings, devices):
    assert place(config(**settings), FOUR) == [devices]


@pytest.mark.parametrize("replicas", [1, "auto"])
def test_auto_is_one_without_a_gpu(replicas):
    assert place(config(replicas=replicas), []) == [[()]]


def test_replicas_run_without_a_gpu_too():
    assert place(config(replicas=3), []) == [[(), (), ()]]


def test_models_take_free_devices_in_their_order():
    made = config({"model_id": "b"}, {"model_id": "c", "replicas": "auto"}, devices=[1])
    assert place(made, FOUR) == [[("1",)], [("0",)], [("2",), ("3",)]]


def test_a_lone_replica_shares_the_first_device_if_none_is_free():
    assert place(config({"model_id": "b"}, replicas=2), ["0", "1"]) == [[("0",), ("1",)], [("0",)]]


def test_ray_places_its_own():
    made = config(replicas=2, distributed_executor_backend="ray", tensor_parallel_size=8)
    assert place(made, FOUR) == [[(), ()]]
    assert "Ray chooses" in problem(config(devices=[0], distributed_executor_backend="ray"), FOUR)


def test_too_few_devices_are_told_with_the_numbers():
    assert problem(config(replicas=3, tensor_parallel_size=2), FOUR) == (
        "model.replicas: 3 replicas of 2 GPUs (tensor_parallel_size x pipeline_parallel_size) "
        "need 6 GPUs, and 4 of this machine's 4 are free: set model.replicas to 2 or auto"
    )
    assert problem(config(replicas=3, devices=[0, 1]), FOUR) == (
        "model.replicas: 3 replicas need 3 GPUs, and model.devices names 2: "
        "set model.replicas to 2 or auto"
    )
    made = config({"model_id": "b", "replicas": 3}, replicas=2)
    assert problem(made, FOUR).startswith(
        "additional_models[0].replicas: 3 replicas need 3 GPUs, and 2 of this machine's 4 are free"
    )


def test_devices_that_cannot_be_are_refused():
    assert "there is no GPU 4 here; there are 0, 1, 2, 3" in problem(config(devices=[4]), FOUR)
    twice = config(devices=[0, 0], tensor_parallel_size=2)
    assert "a replica needs 2 different GPUs" in problem(twice, FOUR)


def test_replicas_are_engines_with_their_own_environment(monkeypatch):
    monkeypatch.delenv("VLLM_PORT", raising=False)
    made = config({"model_id": "small", "devices": [3]}, replicas=2)
    engines = local_engines(made, "/r", FOUR)
    assert [(e.model, e.replica, e.address) for e in engines] == [
        ("big", 0, "ipc:///r/engine-0.sock"),
        ("big", 1, "ipc:///r/engine-1.sock"),
        ("small", 0, "ipc:///r/engine-2.sock"),
    ]
    devices = [e.environment.get("CUDA_VISIBLE_DEVICES") for e in engines]
    assert devices == ["0", "1", "3"]
    assert [e.environment.get("VLLM_PORT") for e in engines] == ["21000", "21100", None]
    monkeypatch.setenv("VLLM_PORT", "30000")
    ports = [e.environment.get("VLLM_PORT") for e in local_engines(made, "/r", FOUR)]
    assert ports == ["30000", "30100", None]


def test_a_fault_may_be_of_one_replica():
    made = Config(model=Model(replicas=2), dry_run=DryRun(fault="load", fault_replica=1))
    runtime = Runtime(made, "dry_run", "/r", local_engines(made, "/r"))
    assert [runtime.engine_config(n).dry_run.fault for n in (0, 1)] == [None, "load"]
