"""V-Gate as a person starts it: on a terminal, in a pipe, with streams that are closed."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.traffic import CHAT, Request, chat, endless
from tests.launcher.screen import Terminal
from vgate.config.schema import Server

MOST_LINES = 15
# Far more than it takes, far less than a drain's limit of 30 s and a killed process's 5 s.
SOON_S = 15


class OnTerminal(Instance):
    """An instance on a terminal, as a person has one."""

    def __init__(self, run_dirs: Path, *, dry_run: bool = True, **settings) -> None:
        super().__init__(run_dirs, dry_run=dry_run, server__workers=1, **settings)
        self.terminal = Terminal()

    def launch(self):
        environment = {**self.environment(), "TERM": "xterm-256color"}
        self.process = self.terminal.run(self.command(), cwd=ROOT, env=environment)
        return self

    def logs(self) -> str:
        return "\n".join(self.terminal.screen())

    def discard(self) -> None:
        super().discard()
        self.terminal.hang_up()


@pytest.fixture
def on_terminal(run_dirs: Path) -> Iterator[OnTerminal]:
    server = OnTerminal(run_dirs).launch()
    try:
        yield server.wait_ready()
    finally:
        server.discard()


def check_ended(server: Instance) -> None:
    assert server.process.wait(SOON_S) == 0
    assert not server.run_dir.exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_start_is_short_and_the_log_is_in_a_file(on_terminal: OnTerminal):
    lines = [line.rstrip() for line in on_terminal.terminal.screen()]
    assert len([line for line in lines if line]) <= MOST_LINES
    log_file = Server(
        state_dir=str(on_terminal.run_dir.parent / "state"), port=on_terminal.port
    ).log_path
    assert f"  Log    {log_file}" in lines
    assert f"  URL    {on_terminal.url}/v1" in lines
    assert not [line for line in lines if "✓" in line]
    text = on_terminal.logs()
    command = text[text.index("curl ") :].partition("\n\n")[0]
    answer = subprocess.check_output(["/bin/sh", "-c", command], stderr=subprocess.DEVNULL)
    assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello!"
    wait_until(lambda: f"path={CHAT}" in log_file.read_text(), 10, "the request is logged")
    assert on_terminal.terminal.screen()[len(lines) :] == []
    # What an operator must see is shown as well.
    os.kill(on_terminal.pid_of("engine"), signal.SIGKILL)
    wait_until(lambda: "The engine is serving again." in on_terminal.logs(), 30, "it is told")
    assert "ERROR   launcher  process died name=engine" in on_terminal.logs()
    assert "process died" in log_file.read_text()
    # A hang-up, of the shell and then of the kernel, drains as SIGTERM does.
    stream = Request(on_terminal.url, endless(stream=True, max_tokens=60)).wait_for_text()
    for _ in range(2):
        on_terminal.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Stopping: running requests have 30 s" in on_terminal.logs(), 10, "told")
    assert stream.wait().done
    check_ended(on_terminal)


def test_a_closed_terminal_stops_it(on_terminal: OnTerminal):
    on_terminal.terminal.hang_up()
    check_ended(on_terminal)


def test_control_c_while_it_loads_says_what_happens(run_dirs: Path):
    server = OnTerminal(run_dirs).launch()
    try:
        wait_until(lambda: "engine" in server.pids(), 30, "it starts")
        processes = server.processes()
        # It neither becomes ready nor ends by SIGTERM.
        os.kill(server.pid_of("engine"), signal.SIGSTOP)
        wait_until(lambda: "starts the dry-run engine" in server.logs(), 30, "the signal is heard")
        server.terminal.type(b"\x03")
        told = "Stopping while the model loads. Ctrl-C again ends it at once."
        wait_until(lambda: told in server.logs(), 10, "it says what happens")
        server.terminal.type(b"\x03")
        assert server.process.wait(SOON_S) == 0
        assert "Traceback" not in server.logs()
        _, alive = psutil.wait_procs(processes, timeout=SOON_S)
        assert alive == []
    finally:
        server.discard()


@pytest.mark.parametrize("redirection", [">&- 2>&-", "2>&1 | head -n 1", "2>/dev/full >&2"])
def test_streams_that_nobody_reads_stop_nothing(run_dirs: Path, redirection: str):
    server = Instance(run_dirs, dry_run=True, server__workers=1)
    command = f"exec {' '.join(server.command())} {redirection}"
    server.process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env=server.environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(server.ready, 60, "it serves")
        for _ in range(3):
            assert httpx.post(server.url + CHAT, json=chat("hi")).status_code == 200
        launcher = next(
            process
            for process in server.processes()
            if process.cmdline()[1:3] == ["-m", "vgate.launcher"]
        )
        launcher.terminate()
        psutil.wait_procs([launcher], timeout=SOON_S)
        assert not launcher.is_running()
        assert not server.run_dir.exists()
    finally:
        server.discard()


@pytest.mark.vllm
@pytest.mark.timeout(330)
def test_a_start_with_a_real_model_is_short(run_dirs: Path, tiny_model_dir: Path):
    settings = {"model__model_id": str(tiny_model_dir), "model__dtype": "float32"}
    server = OnTerminal(run_dirs, dry_run=False, **settings).launch()
    try:
        server.wait_ready(240)
        lines = [line.rstrip() for line in server.terminal.screen()]
        assert len([line for line in lines if line]) <= MOST_LINES
        assert "WARNING" not in server.logs()
        # What vLLM says is in the file, but for what means nothing.
        (log_file,) = (line.split()[1] for line in lines if line.startswith("  Log "))
        kept = Path(log_file).read_text()
        assert "engine:vllm  " in kept
        assert "Triton is not installed" not in kept
        assert server.stop() == 0
    finally:
        server.discard()
