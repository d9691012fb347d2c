"""What models take of the memory, and what is refused before anything starts."""

import json

import msgspec
import pytest

from vgate.config import Config, ConfigError, Runtime, local_engines
from vgate.config.changes import changes
from vgate.config.devices import place
from vgate.config.model import AdditionalModel, Model, Residency
from vgate.config.runtime import DRY_RUN, VLLM
from vgate.config.schema import RemoteEngine
from vgate.config.section import MIB
from vgate.fit.gpu import GIB, Card
from vgate.launcher.checks import Checked
from vgate.launcher.residency import memory
from vgate.launcher.residency.memory import (
    attainable,
    carried_over,
    residency_problems,
    room_of,
    with_memory,
)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 10 GiB of free memory and no GPU; `machine` gives it GPUs."""
    monkeypatch.setattr(memory, "host_memory", lambda: 10 * GIB)
    monkeypatch.setattr(memory, "is_wsl", lambda: False)

    def with_cards(*totals):
        found = [Card(total, 1.0, name="A card", free=total) for total in totals]
        monkeypatch.setattr(memory, "cards", lambda _utilization: found)

    with_cards()
    return with_cards


def on_demand(name, **settings):
    settings = {"task": "generate", "load": "on_demand", **settings}
    return AdditionalModel(model_id=name, **settings)


def config_of(*models, **settings):
    return Config(model=Model(model_id="m", memory_bytes=GIB), models=list(models), **settings)


def sizes(config, backend=VLLM):
    return {model.name: model.memory_bytes for model in with_memory(config, backend).all_models}


def problems(config, backend=DRY_RUN, role="serve", gpus=()):
    try:
        config = with_memory(config, backend)
    except ConfigError as error:
        return list(error.problems)
    return list(residency_problems(config, backend, role, place(config, gpus)))


def test_where_all_models_stay_loaded_nothing_is_computed():
    config = Config(model=Model(model_id="somewhere/else"))
    assert with_memory(config, VLLM) is config
    assert problems(config, VLLM) == []


def test_what_is_set_counts(machine):
    config = config_of(on_demand("a", memory_bytes=2 * GIB))
    assert sizes(config) == {"m": GIB, "a": 2 * GIB}
    machine(20 * GIB, 10 * GIB)
    share = config_of(on_demand("a", gpu_memory_utilization=0.5))
    assert sizes(share)["a"] == 5 * GIB


def test_a_model_that_is_here_is_computed(tiny_model_dir):
    config = config_of(on_demand(str(tiny_model_dir), max_model_len=128))
    short = sizes(config)[str(tiny_model_dir)]
    weights = (tiny_model_dir / "model.safetensors").stat().st_size
    assert weights < short < weights + GIB
    longer = config_of(on_demand(str(tiny_model_dir), max_model_len=256))
    assert sizes(longer)[str(tiny_model_dir)] > short
    two = config_of(
        on_demand(str(tiny_model_dir), max_model_len=128, tensor_parallel_size=2),
    )
    assert sizes(two)[str(tiny_model_dir)] < short


def test_what_depends_on_the_card_counts(tiny_model_dir, machine):
    def size(**settings):
        model = on_demand(str(tiny_model_dir), max_model_len=2048, **settings)
        return sizes(config_of(model))[str(tiny_model_dir)]

    machine(12 * GIB)
    usual = size()
    assert size(kv_cache_dtype="fp8") < usual
    assert size(cuda_graphs="none") < usual < size(cuda_graphs="all")
    weights = (tiny_model_dir / "model.safetensors").stat().st_size
    assert usual - size(weights_offload_gib=1) == pytest.approx(weights, rel=0.5)
    machine()
    assert size(weights_offload_gib=1) == size(), "all is in main memory"


def test_one_that_is_not_here_is_computed_from_the_hub(monkeypatch, tiny_model_dir):
    def from_hub(name, revision):
        assert (name, revision) == ("some/where", "main")
        return lambda file, start, length: read(tiny_model_dir / file, start, length)

    def read(path, start, length):
        if not path.exists():
            return None
        return path.read_bytes()[start or 0 : (start or 0) + length]

    monkeypatch.setattr(memory, "from_hub", from_hub)
    there = on_demand("some/where", revision="main", max_model_len=128)
    here = on_demand(str(tiny_model_dir), max_model_len=128)
    assert sizes(config_of(there))["some/where"] == sizes(config_of(here))[str(tiny_model_dir)]


def test_one_of_which_nothing_is_known_needs_its_figure(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = config_of(on_demand("some/where"))
    (problem,) = problems(config, VLLM)
    assert problem.startswith(
        "what some/where takes of the memory is not known: some/where is not on this machine, and "
        "HF_HUB_OFFLINE is set"
    )
    assert "Set its memory_bytes, or fetch it first: `vgate models pull some/where`" in problem
    # The dry-run engine loads nothing.
    assert problems(config, DRY_RUN) == []


def test_groups_need_no_figures():
    models = [on_demand("a"), on_demand("b")]
    assert problems(config_of(*models, memory_groups=[["m", "a"], ["m", "b"]]), VLLM) == []
    (problem,) = problems(config_of(*models, memory_groups=[["m", "c"]]))
    assert problem == (
        "memory_groups[0] names c, and no model has this as its first name; there are a, b, m"
    )


@pytest.mark.parametrize(
    ("models", "total", "told"),
    [
        ([on_demand("a", memory_bytes=3 * GIB)], 2, "a takes 3.0 GiB, and there are 2.0 GiB"),
        (
            [
                on_demand("a", memory_bytes=GIB, load="pinned"),
                on_demand("b", memory_bytes=3 * GIB),
            ],
            3,
            "b takes 3.0 GiB, and there are 3.0 GiB for models, of which 1.0 GiB are taken",
        ),
    ],
)
def test_a_model_that_never_fits_is_refused_with_numbers(models, total, told):
    (problem,) = problems(config_of(*models, residency=Residency(memory_bytes=total * GIB)))
    assert problem.startswith(told)


def test_a_pinned_model_must_be_in_each_group():
    models = [on_demand("a", load="pinned"), on_demand("b")]
    found = problems(config_of(*models, memory_groups=[["m", "b"]]))
    assert found == [
        "m is in no group of memory_groups beside the pinned a: add one with them",
        "b is in no group of memory_groups beside the pinned a: add one with them",
    ]


@pytest.mark.parametrize("role", ["engine", "serve"])
def test_it_is_for_the_models_of_one_machine(role):
    engines = [RemoteEngine(address="tcp://gpu-1:5710")] if role == "serve" else []
    (problem,) = problems(config_of(on_demand("a"), engines=engines), role=role)
    assert "one machine" in problem


def room(config, gpus, backend=VLLM):
    config = with_memory(config, backend)
    engines = local_engines(config, "/run/v", gpus)
    return room_of(Runtime(config=config, backend=backend, run_dir="/run/v", engines=engines))


def test_models_share_the_machines_memory_or_each_gpus(machine):
    config = config_of(on_demand("a", memory_bytes=GIB))
    found = room(config, [])
    assert found.totals == {"": 8 * GIB}
    # Each with an engine's process.
    assert found.needs == {"m": {"": 2 * GIB}, "a": {"": 2 * GIB}}
    assert room(config, [], DRY_RUN).needs == {"m": {"": GIB}, "a": {"": GIB}}
    machine(24 * GIB, 8 * GIB)
    config = config_of(
        on_demand("a", memory_bytes=3 * GIB, devices=[1]),
        on_demand("b", memory_bytes=5 * GIB, devices=[1]),
        on_demand("c", memory_bytes=2 * GIB, devices=[0, 1], replicas=2),
    )
    found = room(config, ["0", "1"])
    assert found.needs["c"] == {"0": 2 * GIB, "1": 2 * GIB}
    assert 20 * GIB < found.totals["0"] < 24 * GIB
    assert 7 * GIB < found.totals["1"] < 8 * GIB
    assert found.fits({"a", "c"}, "a")
    assert not found.fits({"a", "b"}, "b")
    # m is on the GPU that nobody else has named, or on all.
    assert found.fits({"m", "c", "a"}, "m")
    set_ = msgspec.structs.replace(config, residency=Residency(memory_bytes=4 * GIB))
    assert set(room(msgspec.structs.replace(set_, models=[]), []).totals.values()) == {4 * GIB}


def test_replicas_on_one_device_take_it_several_times():
    config = config_of(on_demand("a", memory_bytes=GIB, replicas=3))
    assert room(config, [], DRY_RUN).needs["a"] == {"": 3 * GIB}


def test_the_check_says_what_is_wrong_and_the_processes_get_the_figures(tmp_path, tiny_model_dir):
    server = {"run_dir": str(tmp_path / "run"), "port": 1}
    document = {
        "server": server,
        "models": [{"model_id": str(tiny_model_dir), "task": "generate", "load": "on_demand"}],
    }
    config = msgspec.convert(document, Config)
    main = msgspec.structs.replace(config.model, memory_bytes=11 * GIB)
    found = Checked(msgspec.structs.replace(config, model=main), DRY_RUN)
    assert any("takes 11.0 GiB, and there are 8.0 GiB" in each for each in found.wrong)
    assert found.config.models[0].memory_bytes
    assert json.dumps(msgspec.to_builtins(found.config))


def test_a_reload_takes_no_computed_figure_for_a_change(tiny_model_dir):
    config = config_of(on_demand(str(tiny_model_dir)), residency=Residency(memory_bytes=GIB))
    running = with_memory(config, VLLM)
    assert changes(running, config).waiting == ["models", "residency.unload"]
    assert changes(running, carried_over(running, config)).waiting == []
    other = config_of(
        on_demand(str(tiny_model_dir), memory_bytes=MIB), residency=Residency(memory_bytes=GIB)
    )
    assert changes(running, carried_over(running, other)).waiting == ["models"]


def test_a_reload_waits_for_no_sleep_that_this_machine_has_not(machine, tiny_model_dir):
    given = Residency(memory_bytes=GIB, unload="sleep")
    config = config_of(on_demand(str(tiny_model_dir)), residency=given)
    running = with_memory(config, VLLM)
    assert running.residency.unload == "stop"
    # What the file says has not changed, or says what would be done anyway.
    assert changes(running, carried_over(running, attainable(config, VLLM))).waiting == []
    # With a GPU, and with the simulated engine, it would count after a restart.
    stops = config_of(
        on_demand(str(tiny_model_dir)), residency=Residency(memory_bytes=GIB, unload="stop")
    )
    for backend, cards in ((VLLM, [24 * GIB]), (DRY_RUN, [])):
        machine(*cards)
        running = with_memory(stops, backend)
        found = changes(running, carried_over(running, attainable(config, backend)))
        assert found.waiting == ["residency.unload"]
    # Where nothing is unloaded, it stays as it is given.
    plain = Config(residency=Residency(unload="sleep"))
    assert attainable(plain, VLLM) is plain
