"""What an instance consists of in each role."""

import pytest

from vgate.config import Config
from vgate.config.links import EngineLink, RemoteEngine
from vgate.config.model import AdditionalModel, Model
from vgate.config.roles import run_dir_of, split_address, topology
from vgate.config.schema import Server

CONFIG = Config(
    model=Model(model_id="m"),
    additional_models=[AdditionalModel(model_id="e", task="embed")],
    engines=[
        RemoteEngine(address="tcp://pods:5710"),
        RemoteEngine(address="tcp://[fd00::1]:1", model="e", public_key="a" * 64),
    ],
    engine_link=EngineLink(listen="tcp://10.0.0.1:5710"),
)


def addresses(role):
    return [spec.address for spec in topology(CONFIG, "/r", role)]


def test_a_server_has_its_own_engines_and_those_of_other_hosts():
    local, other, pods, six = topology(CONFIG, "/r", "serve")
    assert local.supervised
    assert other.supervised
    assert (pods.model, pods.replica, pods.supervised) == ("m", 1, False)
    assert (six.model, six.replica, six.public_key) == ("e", 1, "a" * 64)


def test_engines_listen_at_one_port_after_the_other():
    assert addresses("engine") == ["tcp://10.0.0.1:5710", "tcp://10.0.0.1:5711"]
    assert all(spec.supervised for spec in topology(CONFIG, "/r", "engine"))


def test_frontends_have_engines_of_other_hosts_only():
    assert addresses("frontend") == ["tcp://pods:5710", "tcp://[fd00::1]:1"]
    assert topology(CONFIG, "/r", "frontend")[0].replica == 0


def test_engines_and_a_server_run_beside_each_other():
    assert run_dir_of(CONFIG, "engine") != run_dir_of(CONFIG, "serve")
    assert run_dir_of(CONFIG, "frontend") == run_dir_of(CONFIG, "serve")
    assert run_dir_of(Config(server=Server(run_dir="/r")), "engine") == "/r"


@pytest.mark.parametrize(
    ("address", "parts"),
    [("tcp://a.b:1", ("a.b", 1)), ("tcp://[fd00::1]:5710", ("[fd00::1]", 5710))],
)
def test_addresses(address, parts):
    assert split_address(address) == parts
