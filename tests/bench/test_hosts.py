"""A V-Gate that is spread over hosts, as the benches start it."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from bench import replicas
from bench.hosts import deployed, missing


def test_what_several_hosts_need_is_told(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as ended:
        replicas.main(["--hosts"])
    assert ended.value.code == 1
    assert "need root" in capsys.readouterr().err


def test_where_no_namespace_can_be_made_that_is_told_too(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refuses = tmp_path / "ip"
    refuses.write_text("#!/bin/sh\necho Operation not permitted >&2; exit 2\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = missing()
    assert reason is not None
    assert "can't be made here" in reason


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_streams_over_both_gateways_survive_a_kill_on_an_engines_host(tmp_path: Path):
    own = Path("/proc/thread-self/ns/net").readlink()
    arguments = "--hosts --streams 12 --tokens 60 80 --seconds 2 --every 1.5 --step-ms 20"
    options = replicas.options_of(arguments.split())
    settings = replicas.settings_of(options)
    with deployed(tmp_path, settings, options.replicas, hosts=True) as hosts:
        assert len(hosts.pids("engine")) == 3
        deadline = time.monotonic() + 30
        while sum("another host" in line for _, line in hosts.log) < 2 * 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        outcome = asyncio.run(replicas.Run(hosts, options).go())
    assert set(outcome.ends) == {"right"}
    assert sum(kill.moved for kill in outcome.kills) > 0
    requests = [sum("POST" in line for _, line in gateway.log) for gateway in hosts.gateways]
    assert len(requests) == 2
    assert min(requests) > 0
    assert Path("/proc/thread-self/ns/net").readlink() == own
