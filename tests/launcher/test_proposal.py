"""`vgate` without a model: a terminal is asked once, with a proposal; nothing else ever is."""

import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.launcher.screen import Terminal
from vgate.config import Config
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Server
from vgate.launcher.cli import main
from vgate.launcher.terminal.proposal import choose, is_open

DEFAULT = Model().model_id
# Everything up to where an engine would be started.
PROGRAM = """
import sys
from vgate.launcher.cli import main
sys.exit(main(sys.argv[1:], only_look=True))
"""
DEADLINE_S = 60
CTRL_C, CTRL_D = b"\x03", b"\x04"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A machine with an RTX 3060, and no settings but a free port."""
    before = dict(os.environ)
    for name in [*os.environ]:
        if name.startswith(("VGATE_", "HF_", "HUGGINGFACE")):
            monkeypatch.delenv(name)
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3060, 12288, 11900, 8.6'\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("VGATE_SERVER__PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("VGATE_SERVER__RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("VGATE_SERVER__STATE_DIR", str(tmp_path / "state"))
    yield
    os.environ.pop("VGATE_MODEL__MODEL_ID", None)
    os.environ.update(before)


@pytest.fixture
def remembered(tmp_path):
    return tmp_path / "state" / "model"


def talk(*keys, arguments=(), asked="type another name"):
    """Run it on a terminal, type each of the keys once it asks; return the status and the text."""
    with Terminal(columns=200) as terminal:
        child = terminal.run([sys.executable, "-c", PROGRAM, *arguments])
        deadline = time.monotonic() + DEADLINE_S
        for count, key in enumerate(keys, 1):
            while terminal.written.count(asked) < count:
                assert time.monotonic() < deadline, terminal.written
                time.sleep(0.01)
            terminal.type(key)
        status = child.wait(DEADLINE_S)
        time.sleep(0.1)
        return status, terminal.written.replace("\r\n", "\n")


def test_enter_takes_what_is_proposed_and_it_is_remembered(remembered, capsys):
    status, text = talk(b"\n")
    assert status == 0, text
    assert "This machine has NVIDIA GeForce RTX 3060 (12.0 GiB)." in text
    assert "qwen3:8b fits: Qwen/Qwen3-8B-AWQ (AWQ, 4 bit, 6.1 GB), 2 answers of 1" in text
    assert remembered.read_text() == "qwen3:8b\n"
    # Nobody is asked again, and what has no terminal serves it too.
    assert talk() == (0, "")
    assert main(["check"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["model_id"] == "Qwen/Qwen3-8B-AWQ"


def test_another_name_is_taken_once_it_can_be_served(remembered):
    status, text = talk(b"qwen3:32b\n", b"not a name\n", b"a/b-GGUF\n", b" qwen3:4b \n")
    assert status == 0, text
    assert "qwen3:32b does not fit on NVIDIA GeForce RTX 3060 (12.0 GiB): its smallest" in text
    assert "there is no directory not a name" in text
    assert "has GGUF files, which can't be served" in text
    assert remembered.read_text() == "qwen3:4b\n"


@pytest.mark.parametrize("key", [b"n\n", b" No \n", b"q\n"])
def test_no_is_no_name_of_a_model(remembered, key):
    status, text = talk(key)
    assert status == 1, text
    assert "Nothing is started: `vgate --model NAME` serves another model" in text
    assert not remembered.exists()


def test_yes_is_as_enter_and_a_name_without_its_owner_is_asked_again(remembered):
    status, text = talk(b"qwen3-4b\n", b"y\n")
    assert status == 0, text
    assert "qwen3-4b is not a short name, and names on the Hub have owners: Qwen/Qwen3-8B" in text
    assert "did you mean qwen3:4b?" in text
    assert remembered.read_text() == "qwen3:8b\n"


def test_without_a_gpu_the_start_takes_what_was_proposed(remembered, tmp_path, capsys):
    (tmp_path / "bin" / "nvidia-smi").unlink()
    status, text = talk(b"\n")
    assert status == 0, text
    assert "This machine has no NVIDIA GPU." in text
    said = re.search(r"(\S+) fits: (\S+) \(", text)
    assert remembered.read_text() == f"{said[1]}\n"
    assert main(["check"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["model_id"] == said[2]


@pytest.mark.parametrize(("key", "status"), [(CTRL_D, 1), (CTRL_C, 130)])
def test_no_answer_is_remembered_as_none(remembered, key, status):
    found, text = talk(key)
    assert found == status, text
    assert "Traceback" not in text
    assert not remembered.exists()


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--model", "qwen3:4b"], ["check"]])
def test_who_says_the_model_is_not_asked(remembered, arguments):
    status, text = talk(arguments=arguments)
    assert status == 0, text
    assert "No model is chosen" not in text
    assert not remembered.exists()


@pytest.mark.parametrize("chosen", ["", "qwen3:4b"])
def test_without_a_terminal_nobody_is_asked(remembered, monkeypatch, capsys, chosen):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # so that it ends where it would download
    if chosen:
        remembered.parent.mkdir()
        remembered.write_text(f"{chosen}\n")
    assert main([]) == 2
    told = capsys.readouterr().err.splitlines()
    if chosen:
        assert told[0].startswith(f"vgate: serving {chosen}, which was chosen before ({remembered}")
        assert "cannot fetch the model Qwen/Qwen3-4B" in told[1]
    else:
        assert told[0].startswith(f"vgate: no model is configured: serving {DEFAULT}; --model or")
        assert f"cannot fetch the model {DEFAULT}" in told[1]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("content", "served"),
    [
        (b"no/such\x00model\n", DEFAULT),
        (b"\xff\xfe", DEFAULT),
        (b"\n", DEFAULT),
        (b"Qwen/Qwen3-4B\nand more\n", "Qwen/Qwen3-4B"),
        (b"x" * 5_000_000, "x" * 4096),
    ],
)
def test_a_file_that_nobody_has_written_so_ends_no_start(remembered, content, served):
    remembered.parent.mkdir()
    remembered.write_bytes(content)
    config = Config(server=Server(state_dir=str(remembered.parent)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGATE_MODEL__MODEL_ID", "")
        assert choose(config, ask=False)[0].model.model_id == served


def test_with_json_logs_the_line_is_json_too(monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("VGATE_LOGGING__JSON_FORMAT", "true")
    assert main([]) == 2
    told = capsys.readouterr().err.splitlines()
    assert all(line.startswith("{") for line in told)
    assert "no model is configured" in told[0]


@pytest.mark.parametrize(
    ("config", "open_"),
    [
        (Config(), True),
        (Config(model=Model(dtype="float32")), True),
        (Config(model=Model(model_id="qwen3:8b")), False),
        (Config(model=Model(max_model_len=4096)), False),
        (Config(models=[AdditionalModel(model_id="a/b")]), False),
    ],
)
def test_what_says_nothing_of_the_model(config, open_):
    assert is_open(config) is open_


def test_the_shipped_configuration_says_nothing_of_the_model(monkeypatch):
    from vgate.config import load

    monkeypatch.setenv("VGATE_CONFIG_PATH", str(Path(__file__).parents[2] / "config.yaml"))
    assert is_open(load(os.environ))
