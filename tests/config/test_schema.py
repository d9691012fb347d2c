"""The configuration's sections: valid defaults, frozen values and derived values."""

import os
from pathlib import Path

import msgspec
import pytest
import yaml

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import Server
from vgate.config.section import Section


def sections() -> list[type[Section]]:
    return Section.__subclasses__()


def test_the_defaults_pass_their_own_checks():
    # msgspec checks on conversion only, so a default out of its bounds would go unseen.
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()


def test_the_shipped_file_has_every_key_with_its_default():
    document = yaml.safe_load(Path(__file__).parents[2].joinpath("config.yaml").read_text())
    assert document == msgspec.to_builtins(Config())


@pytest.mark.parametrize("section", sections())
def test_every_section_is_frozen_and_refuses_unknown_keys(section):
    assert section.__struct_config__.frozen
    assert section.__struct_config__.forbid_unknown_fields


def test_what_depends_on_the_card():
    found = Model(kv_cache_dtype="fp8", cuda_graphs="few").card_settings
    assert (found["kv_cache_dtype"], found["cuda_graphs"], len(found)) == ("fp8", "few", 8)


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        Config().server.port = 1


def test_configs_share_no_list_or_map():
    first, second = (msgspec.convert({"security": {}, "model": {}}, Config) for _ in range(2))
    first.security.exempt_paths.append("/x")
    first.model.engine_args["a"] = 1
    assert "/x" not in second.security.exempt_paths
    assert second.model.engine_args == {}


@pytest.mark.parametrize(
    ("given", "names"), [(None, ["m"]), ("a", ["a"]), (["a", "b"], ["a", "b"])]
)
def test_served_names(given, names):
    assert Model(model_id="m", served_model_name=given).served_names == names


@pytest.mark.parametrize(
    ("workers", "cores", "count"),
    [(3, 64, 3), (0, 1, 1), (0, 2, 1), (0, 4, 2), (0, 8, 4), (0, 64, 4), (0, None, 1)],
)
def test_worker_count(monkeypatch, workers, cores, count):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert Server(workers=workers).worker_count == count
