"""The operator's commands against a running instance, on a terminal and in pipes."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.e2e.instance import ROOT, Instance, free_port, wait_until

TIMEOUT_S = 60
LONG = {"max_tokens": 1500, "ignore_eos": True}


@pytest.fixture(scope="module")
def notified(run_dirs):
    """What the instance tells who has started it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = run_dirs / "notify"
        manager.bind(str(path))
        manager.settimeout(TIMEOUT_S)
        yield manager


@pytest.fixture(scope="module")
def instance(run_dirs, notified):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTIFY_SOCKET", notified.getsockname())
        with Instance(run_dirs, dry_run=True, server__workers=2) as made:
            yield made


def environment(instance):
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("VGATE_")},
        "VGATE_URL": instance.url,
        "VGATE_CONFIG_PATH": os.devnull,
        "TERM": "xterm",
    }


def vgate(instance, *arguments, text=""):
    """Run a command in a pipe; return what has come of it."""
    return subprocess.run(
        [sys.executable, "-m", "vgate.launcher", *arguments],
        cwd=ROOT,
        env=environment(instance),
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


class Terminal:
    """A command on a terminal: its keys, and what it shows."""

    def __init__(self, instance, *arguments):
        self._fd, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vgate.launcher", *arguments],
            cwd=ROOT,
            env=environment(instance),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def press(self, keys):
        self.shown = ""
        os.write(self._fd, keys.encode())

    def wait_for(self, text):
        """Read until the text is shown."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # it has ended
                    self.shown += os.read(self._fd, 65536).decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT_S)
        os.close(self._fd)


def test_status_shows_it_and_tells_scripts_by_its_exit_status(instance):
    done = vgate(instance, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"on {instance.url}: ready" in done.stdout
    assert "context 2048 tokens" in done.stdout
    assert "TTFT" in done.stdout
    document = json.loads(vgate(instance, "status", "--json").stdout)
    assert document["ready"]["ready"]
    assert document["stats"]["engines"][0]["state"] == "ready"
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = vgate(instance, "status", "--url", nowhere)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"vgate: no server answers on {nowhere}: start it with bin/vgate, or name another with "
        "--url\n"
    )


def test_status_is_shown_again_until_it_is_ended(instance):
    with Terminal(instance, "status", "--watch", "0.1") as terminal:
        terminal.wait_for("/s now")  # there are rates from the second time on
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(TIMEOUT_S) == 0
        terminal.wait_for("\x1b[?1049l")


def test_chat_answers_in_a_pipe_with_the_answer_alone(instance):
    done = vgate(instance, "chat", text="hello there\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello there\n", "")
    done = vgate(instance, "chat", "what", "is", "this", text="a file")
    assert done.stdout == "what is this\n\na file\n"
    done = vgate(instance, "chat", "--max-tokens", "0", text="x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vgate: `max_tokens` must be an integer >= 1, got 0\n"
    assert vgate(instance, "chat", text="").returncode == 2


def test_chat_is_a_conversation_on_a_terminal(instance, tmp_path):
    long = " ".join(f"word{number}" for number in range(150))
    with Terminal(instance, "chat") as terminal:
        terminal.wait_for(">>> ")
        terminal.press("/system be brief\n")
        terminal.wait_for("system prompt: be brief")
        terminal.press("one\\\ntwo\n")
        terminal.wait_for("tokens/s")
        assert "one\r\ntwo" in terminal.shown
        terminal.press("/retry\n")
        terminal.wait_for("tokens/s")
        terminal.press(f"{long}\n")
        terminal.wait_for("word9 word10 word11")
        terminal.shown = ""
        terminal.wait_for("word1 ")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("stopped)")
        terminal.press(f"/save {tmp_path}/said.json\n")
        terminal.wait_for("saved to")
        terminal.press("/bye\n")
        assert terminal.process.wait(TIMEOUT_S) == 0
    said = json.loads((tmp_path / "said.json").read_text())["messages"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [message["role"] for message in said] == roles
    assert said[2]["content"] == "one\ntwo"
    assert said[4]["content"]
    assert len(said[4]["content"]) < len(long)


def test_top_shows_a_request_and_stops_it(instance):
    answers = []
    body = {"model": instance.model, "messages": [{"role": "user", "content": "hi"}], **LONG}

    def ask():
        url = f"{instance.url}/v1/chat/completions"
        answers.append(httpx.post(url, json=body, headers={"X-Request-ID": "r-1"}, timeout=60))

    request = threading.Thread(target=ask)
    request.start()
    wait_until(lambda: "r-1" in vgate(instance, "top").stdout, TIMEOUT_S, "it runs")
    with Terminal(instance, "top", "--every", "0.2") as terminal:
        terminal.wait_for("r-1")
        terminal.press("k")
        terminal.wait_for("stop r-1?")
        terminal.press("y")
        terminal.wait_for("r-1 is stopped")
        terminal.press("q")
        assert terminal.process.wait(TIMEOUT_S) == 0
    request.join(TIMEOUT_S)
    assert answers[0].json()["error"]["code"] == "cancelled_by_admin"
    assert "no request is running" in vgate(instance, "top").stdout


def test_bench_measures_and_judges(instance):
    arguments = ("bench", "--clients", "2", "--seconds", "3", "--max-tokens", "8")
    goals = ("--ttft", "3000", "--gap", "3000")
    done = vgate(instance, *arguments, *goals)
    assert done.returncode == 0, done.stderr
    assert "Good with 2 clients at once" in done.stdout
    done = vgate(instance, *arguments, "--json", "--gap", "0.0001")
    assert done.returncode == 1
    (result,) = json.loads(done.stdout)
    assert result["answers"] > 0
    assert not result["goals_met"]


def test_who_has_started_it_is_told(instance, notified):
    assert notified.recv(100) == b"READY=1"
    assert instance.stop(signal.SIGTERM) == 0
    assert notified.recv(100) == b"STOPPING=1"
