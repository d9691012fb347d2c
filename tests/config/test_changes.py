"""What a running instance takes over from a configuration that was read again."""

import msgspec
import pytest

from vgate.config import Config, changes
from vgate.config.changes import _AT_ONCE, _AT_RESTART, needs_restart
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import RateLimiting, Security, Server, Timeouts


def names(document, prefix=""):
    """Yield the dotted names of a configuration's settings and sections."""
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from names(value, f"{prefix}{key}.")


NAMES = set(names(msgspec.to_builtins(Config())))


def test_nothing_changed():
    found = changes(Config(), Config())
    assert (found.config, found.applied, found.waiting) == (Config(), [], [])


def test_what_frontends_read_counts_at_once_and_the_rest_after_a_restart():
    running = Config()
    wanted = Config(
        server=Server(port=9, max_choices=3),
        model=Model(model_id="other", tool_parser="hermes"),
        timeouts=Timeouts(request_s=5),
        security=Security(rate_limiting=RateLimiting(default_limit=7)),
    )
    found = changes(running, wanted)
    assert sorted(found.applied) == [
        "model.tool_parser",
        "security.rate_limiting.default_limit",
        "server.max_choices",
        "timeouts.request_s",
    ]
    assert sorted(found.waiting) == ["model.model_id", "server.port"]
    assert found.config == Config(
        server=Server(max_choices=3),
        model=Model(tool_parser="hermes"),
        timeouts=wanted.timeouts,
        security=wanted.security,
    )


def test_maps_and_lists_change_as_a_whole():
    running = Config(model=Model(engine_args={"a": 1}))
    wanted = Config(
        model=Model(engine_args={"a": 1, "b": 2}),
        additional_models=[AdditionalModel(model_id="e", task="embed")],
        server=Server(cors_allow_origins=["*"]),
    )
    found = changes(running, wanted)
    assert sorted(found.waiting) == ["additional_models", "model.engine_args"]
    assert found.applied == ["server.cors_allow_origins"]
    assert found.config.model == running.model
    assert found.config.additional_models == []
    assert found.config.server.cors_allow_origins == ["*"]


def test_a_change_is_reported_again_until_the_restart():
    wanted = Config(model=Model(model_id="other"))
    once = changes(Config(), wanted)
    assert changes(once.config, wanted).waiting == ["model.model_id"]


@pytest.mark.parametrize("name", [*_AT_RESTART, *_AT_ONCE])
def test_the_lists_name_settings_that_exist(name):
    assert name in NAMES


@pytest.mark.parametrize(
    ("name", "restart"),
    [
        ("model", True),
        ("model.chat_template", False),
        ("model.chat_template_of_later", True),
        ("batch.max_batch_size", True),
        ("server.port", True),
        ("server.tls.certificate", False),
        ("cache.ttl_s", False),
    ],
)
def test_each_setting_has_its_time(name, restart):
    assert needs_restart(name) == restart
