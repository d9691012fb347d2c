"""The engines of a configuration, and several engines for one model."""

import msgspec
import pytest

from vgate.config import Config, EngineSpec, Runtime, local_engines
from vgate.config.model import AdditionalModel, Model

CONFIG = Config(
    model=Model(model_id="m", served_model_name=["big", "alias"]),
    additional_models=[AdditionalModel(model_id="small", task="embed")],
)


def runtime(*engines: EngineSpec) -> Runtime:
    return Runtime(config=CONFIG, backend="dry_run", run_dir="/r", engines=list(engines))


def test_each_model_gets_one_supervised_engine_with_its_own_socket():
    engines = local_engines(CONFIG, "/r")
    assert [(e.model, e.replica, e.supervised) for e in engines] == [
        ("big", 0, True),
        ("small", 0, True),
    ]
    assert [e.address for e in engines] == ["ipc:///r/engine-0.sock", "ipc:///r/engine-1.sock"]


def test_an_engine_is_configured_for_its_model_whatever_its_number():
    made = runtime(
        EngineSpec(model="small", address="ipc://a"),
        EngineSpec(model="big", address="ipc://b"),
        EngineSpec(model="big", replica=1, address="tcp://host:1", supervised=False),
    )
    models = [made.engine_config(number).model.model_id for number in range(3)]
    assert models == ["small", "m", "m"]
    assert made.engines_of("big") == {1: made.engines[1], 2: made.engines[2]}
    assert made.engines_of("alias") == {}


def test_engines_have_the_same_names_in_all_processes():
    one, other = EngineSpec(model="big", address="a"), EngineSpec(model="big", address="b")
    assert runtime(one).engine_name(0) == "engine"
    assert [runtime(one, other).engine_name(n) for n in (0, 1)] == ["engine-0", "engine-1"]


@pytest.mark.parametrize(("replica", "title"), [(0, "big"), (2, "big (replica 2)")])
def test_a_title_has_the_replica_from_the_second_on(replica, title):
    assert EngineSpec(model="big", replica=replica, address="a").title == title


def test_it_survives_encoding():
    made = runtime(
        EngineSpec(model="big", address="a", environment={"CUDA_VISIBLE_DEVICES": "1"}),
        EngineSpec(model="big", replica=1, address="b", supervised=False),
    )
    assert msgspec.json.decode(msgspec.json.encode(made), type=Runtime) == made
