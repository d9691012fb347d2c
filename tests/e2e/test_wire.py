"""No message on the sockets of the run directory kills a process."""

import os
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, MODEL, EngineProbe, chat, endless
from tests.wire.steps import deltas_of
from vgate.engine.backends.dry_run.vocabulary import END, USER
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Failures,
    Generate,
    Refused,
    Step,
)
from vgate.wire.parameters import DEFAULTS
from vgate.wire.sockets import Dealer

PROMPT = pack_token_ids([USER, *b"hello", END])
LIMITED = msgspec.structs.replace(DEFAULTS, max_tokens=1000)


@pytest.fixture
def engine(dry_run: Instance):
    with EngineProbe(dry_run.run_dir) as engine:
        engine.welcome()
        yield engine


def check_alive(server: Instance, pids: dict[str, int]) -> None:
    """Check that all processes are the same and serve."""
    assert httpx.post(server.url + CHAT, json=chat("alive")).status_code == 200
    assert server.pids() == pids


def test_only_the_user_can_read_the_run_directory(dry_run: Instance):
    assert dry_run.run_dir.stat().st_mode & 0o777 == 0o700
    assert (dry_run.run_dir / "runtime.json").stat().st_mode & 0o777 == 0o600


def test_a_welcome_describes_the_model(dry_run: Instance):
    with EngineProbe(dry_run.run_dir) as engine:
        welcome = engine.welcome()
    assert welcome.protocol == PROTOCOL_VERSION
    assert welcome.model.names == [MODEL]
    assert welcome.model.backend == "dry_run"


@pytest.mark.parametrize("protocol", [0, PROTOCOL_VERSION + 1])
def test_another_version_is_refused(dry_run: Instance, protocol: int):
    with EngineProbe(dry_run.run_dir, protocol) as engine:
        refused = engine.receive()
        assert isinstance(refused, Refused)
        assert refused.protocol == PROTOCOL_VERSION
        assert f"speaks {protocol}" in refused.reason
        # And it stays refused.
        engine.send(Generate(1, PROMPT, DEFAULTS))
        assert isinstance(engine.receive(), Refused)


@pytest.mark.parametrize("socket", ["engine-0.sock", "control.sock"])
def test_garbage_kills_nothing(dry_run: Instance, socket: str):
    pids = dry_run.pids()
    dealer = Dealer(f"ipc://{dry_run.run_dir}/{socket}", "stranger")
    for garbage in (b"", b"\xc1", b"\x93\xa5Hello", os.urandom(100), b"\x90", bytes(1_000_000)):
        dealer.send(garbage)
    # Well-formed, and nonsense.
    for message in (["Hello"], ["Hello", "x", 1], ["Generate", 1], {"type": "EngineBeat"}, 7, None):
        dealer.send(msgspec.msgpack.encode(message))
    check_alive(dry_run, pids)
    dealer.close()
    check_alive(dry_run, pids)


@pytest.mark.parametrize(
    "message",
    [
        Generate(1, b"", LIMITED),
        Generate(1, b"abc", LIMITED),
        Generate(1, pack_token_ids([1] * 5000), LIMITED),
    ],
)
def test_a_request_that_cannot_run_fails(engine: EngineProbe, message: Generate):
    engine.send(message)
    while not isinstance(failures := engine.receive(), Failures):
        pass
    assert [failure.id for failure in failures.failures] == [1]


@pytest.mark.parametrize(
    "message",
    [
        Generate(1, PROMPT, LIMITED, weight=0.0),
        Generate(1, PROMPT, LIMITED, weight=-1.0),
        Generate(1, PROMPT, LIMITED, weight=float("nan")),
        Generate(1, PROMPT, LIMITED, queue_timeout_s=float("nan")),
        Generate(1, PROMPT, LIMITED, queue_timeout_s=-1.0),
        Generate(1, PROMPT, msgspec.structs.replace(LIMITED, max_tokens=0)),
        Generate(1, PROMPT, msgspec.structs.replace(LIMITED, stop_token_ids=[-1])),
        Abort([-1, 0, 10**18]),
    ],
    ids=str,
)
def test_invalid_fields_in_a_message_kill_nothing(dry_run: Instance, engine: EngineProbe, message):
    pids = dry_run.pids()
    engine.send(message)
    engine.send(Generate(2, PROMPT, LIMITED))
    text = b""
    while b"hello" not in text:
        if isinstance(step := engine.receive(), Step):
            text += bytes(t for d in deltas_of(step) if d.id == 2 for t in d.token_ids if t < END)
    check_alive(dry_run, pids)


def test_a_number_used_twice_kills_nothing(dry_run: Instance, engine: EngineProbe):
    pids = dry_run.pids()
    endless_sampling = msgspec.structs.replace(LIMITED, ignore_eos=True)
    for _ in range(3):
        engine.send(Generate(1, PROMPT, endless_sampling))
    wait_until(lambda: engine.status().running, 10, "it runs")
    engine.send(Generate(1, PROMPT, endless_sampling))
    engine.send(Abort([1]))
    engine.wait_idle()
    check_alive(dry_run, pids)


def test_a_frontend_that_vanishes_leaves_nothing_running(dry_run: Instance, engine: EngineProbe):
    other = EngineProbe(dry_run.run_dir)
    other.welcome()
    endless_sampling = msgspec.structs.replace(LIMITED, ignore_eos=True)
    for number in range(200):
        other.send(Generate(number, PROMPT, endless_sampling))
    wait_until(lambda: engine.status().waiting > 100, 10, "they wait")
    other.dealer.close(linger_ms=0)
    engine.wait_idle()


def test_many_frontends_that_connect_and_leave(dry_run: Instance, run_dirs: Path):
    pids = dry_run.pids()
    for _ in range(100):
        EngineProbe(dry_run.run_dir).dealer.close(linger_ms=0)
    check_alive(dry_run, pids)
    assert httpx.post(dry_run.url + CHAT, json=endless(max_tokens=50)).status_code == 200
    assert "Traceback" not in dry_run.logs()
