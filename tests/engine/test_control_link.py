"""The control link works in both directions, on a socket where the test is the launcher."""

import os
import time

import pytest

from vgate.config import Config, Runtime
from vgate.engine.control_link import ControlLink
from vgate.wire.codec import decode_to_launcher, encode
from vgate.wire.control import (
    Drain,
    EngineBeat,
    EngineFailed,
    EnginePhase,
    EngineReady,
    EngineState,
)
from vgate.wire.sockets import Router

DEADLINE_S = 20


class Play:
    def __init__(self, run_dir: str) -> None:
        runtime = Runtime(config=Config(), backend="dry_run", run_dir=run_dir, engines=[])
        self.launcher = Router(runtime.endpoint("control"))
        self.link = ControlLink(runtime)
        self.peer = b""

    def hear(self):
        """Return the next message of the engine."""
        deadline = time.monotonic() + DEADLINE_S
        while (received := self.launcher.receive()) is None:
            assert time.monotonic() < deadline
            self.launcher.wait(0.1)
        self.peer, payload = received
        return decode_to_launcher(payload)

    def tell(self, *payloads: bytes) -> list[object]:
        """Send as the launcher; return what the engine has received once all is there."""
        for payload in payloads:
            assert self.launcher.send(self.peer, payload)
        assert self.launcher.send(self.peer, encode(Drain(-1.0)))
        deadline = time.monotonic() + DEADLINE_S
        received: list[object] = []
        while Drain(-1.0) not in received:
            assert time.monotonic() < deadline
            received += self.link.received()
        return received[:-1]


@pytest.fixture
def play(tmp_path_factory):
    play = Play(str(tmp_path_factory.mktemp("l")))
    yield play
    play.link.close()
    play.launcher.close()


def test_the_engine_reports(play):
    pid = os.getpid()
    play.link.phase("loading")
    assert play.hear() == EnginePhase(pid, "loading")
    play.link.ready("it serves")
    assert play.hear() == EngineReady(pid, "it serves")
    play.link.beat()
    assert play.hear() == EngineBeat(pid)
    play.link.failed("why", permanent=True)
    assert play.hear() == EngineFailed(pid, "why", True)


def test_the_launcher_is_heard(play):
    assert list(play.link.received()) == []
    play.link.beat()
    play.hear()
    assert play.tell() == []
    assert play.tell(encode(Drain(1.5)), encode(Drain(2.5))) == [Drain(1.5), Drain(2.5)]


def test_a_message_that_is_not_for_engines_is_dropped(play):
    play.link.beat()
    play.hear()
    wrong = encode(EngineState("ready", "", 0.0))
    assert play.tell(b"", b"\xc1", wrong, encode(Drain(3.0))) == [Drain(3.0)]
