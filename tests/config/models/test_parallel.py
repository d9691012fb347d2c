"""Models that are split over the GPUs of a machine."""

from vgate.config import Config
from vgate.config.model import AdditionalModel, Model
from vgate.config.models.parallel import gpu_problems, is_split


def config(**model) -> Config:
    return Config(model=Model(model_id="big", **model))


def test_more_gpus_than_there_are_is_said_with_the_numbers():
    split = config(tensor_parallel_size=2, pipeline_parallel_size=2)
    assert is_split(split)
    (said,) = gpu_problems(split, ["0", "1"])
    assert "(2) x model.pipeline_parallel_size (2) needs 4 GPUs, and this machine has 2" in said
    assert said.startswith("big: ")
    assert "ray" in said
    assert list(gpu_problems(split, ["0", "1", "2", "3"])) == []
    # The CPU build's workers share the cores.
    assert list(gpu_problems(split, [])) == []


def test_each_model_counts_for_itself():
    small = AdditionalModel(model_id="small", task="embed", tensor_parallel_size=3)
    assert [
        said.partition(":")[0] for said in gpu_problems(Config(additional_models=[small]), "01")
    ] == ["small"]


def test_gpus_of_other_machines_are_not_counted():
    for more in ({"distributed_executor_backend": "ray"}, {"engine_args": {"nnodes": 2}}):
        split = config(tensor_parallel_size=8, **more)
        assert not is_split(split)
        assert list(gpu_problems(split, ["0"])) == []
    assert not is_split(config())
