"""What keeps an instance from its links to other hosts, and what a probe is told."""

import pytest

from vgate.config import Config, Runtime
from vgate.config.links import EngineLink, RemoteEngine
from vgate.config.roles import topology
from vgate.config.schema import MIB, Server
from vgate.launcher.child import EngineChild
from vgate.launcher.hosts.links import link_problems
from vgate.launcher.hosts.probe import probe, probed
from vgate.wire.link_keys import ALLOWED, ENGINE_KEY, ENGINE_PUBLIC, FRONTEND_KEY, make_keys

PODS = RemoteEngine(address="tcp://pods:5710")


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def problems(role, keys, engines=(PODS,), server=None, **link):
    section = EngineLink(keys=str(keys), **link)
    config = Config(engines=list(engines), engine_link=section, server=server or Server())
    return list(link_problems(config, role))


@pytest.mark.parametrize("role", ["serve", "engine", "frontend"])
def test_nothing_is_wrong_with_the_keys_that_were_made(role, keys):
    assert problems(role, keys) == []


@pytest.mark.parametrize(
    ("role", "names"),
    [("engine", [ENGINE_KEY, ALLOWED]), ("frontend", [FRONTEND_KEY, ENGINE_PUBLIC])],
)
def test_a_host_needs_two_of_the_files(role, names, keys):
    for path in keys.iterdir():
        if path.name not in names:
            path.unlink()
    assert problems(role, keys) == []
    for name in names:
        text = (keys / name).read_text()
        (keys / name).unlink()
        (told,) = problems(role, keys)
        assert "vgate keys engine" in told
        (keys / name).write_text("zz" + text[2:] if name == ALLOWED else text + text)
        (told,) = problems(role, keys)
        assert str(keys / name) in told
        assert "64 hexadecimal digits" in told
        (keys / name).write_text(text)


def test_engines_with_keys_of_their_own_need_no_other(keys):
    (keys / ENGINE_PUBLIC).unlink()
    own = RemoteEngine(address="tcp://10.0.0.1:1", public_key="a" * 64)
    assert problems("serve", keys, [own]) == []
    assert problems("serve", keys, [own, PODS])


def test_without_other_hosts_no_key_is_needed(tmp_path):
    assert problems("serve", tmp_path / "none", []) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_loopback_may_do_without_keys(host, tmp_path):
    engine = RemoteEngine(address=f"tcp://{host}:5710")
    assert problems("serve", tmp_path, [engine], plaintext=True) == []
    assert problems("engine", tmp_path, listen=f"tcp://{host}:1", plaintext=True) == []


@pytest.mark.parametrize("role", ["serve", "frontend", "engine"])
def test_other_hosts_need_keys(role, tmp_path):
    (told,) = problems(role, tmp_path, plaintext=True)
    assert "engine_link.plaintext must be false" in told


@pytest.mark.parametrize(
    ("role", "options", "told"),
    [
        ("frontend", {"engines": []}, "there are no engines"),
        ("serve", {"engines": [RemoteEngine(address="tcp://h:1", model="x")]}, "no model has"),
        ("engine", {"listen": "tcp://0.0.0.0:0"}, "from 1 to 65535"),
        ("serve", {"engines": [RemoteEngine(address="tcp://h:99999")]}, "from 1 to 65535"),
        ("serve", {"server": Server(max_body_bytes=64 * MIB)}, "at least 134217728"),
    ],
)
def test_what_cannot_work_is_told(role, options, told, keys):
    (problem,) = problems(role, keys, **options)
    assert told in problem


def children(directory):
    config = Config()
    specs = topology(config, str(directory), "engine")
    runtime = Runtime(config=config, backend="dry_run", run_dir=str(directory), engines=specs)
    return [EngineChild(runtime, 0)]


def test_a_probe_is_told_how_the_engines_are(tmp_path):
    (engine,) = children(tmp_path)
    engine.enter("starting", "loading weights")
    assert probed([engine], stopping=False).not_ready == "the engine is starting: loading weights"
    engine.enter("ready", "m")
    assert probed([engine], stopping=False).not_ready == ""
    assert probed([engine], stopping=True).not_ready == "it is being stopped"
    assert probed([engine], stopping=True).not_live == ""


def test_a_probe_without_an_instance_fails(tmp_path, capsys):
    assert probe(str(tmp_path), "live") == 1
    assert "no V-Gate runs in" in capsys.readouterr().err
