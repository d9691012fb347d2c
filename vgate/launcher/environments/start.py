"""Chooses the environment for a command line and starts the launcher in it."""

from __future__ import annotations

import os
import sys

from vgate.commands.arguments import read_early
from vgate.commands.flags.vllm import translate
from vgate.launcher.environments.model import Environment, EnvironmentProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERVE = "serve"
# A model runs without a command or with one of these, so that an engine is needed.
_WITH_ENGINE = (None, SERVE, "engine", "join")
_WITH_FRONTENDS = (None, SERVE, "frontend")

CHECK = "check"

# What traces need, and vLLM brings with it.
OTEL = os.path.join("bin", "otel-requirements.txt")
# What a model over several machines needs; no other does.
RAY = os.path.join("bin", "ray-requirements.txt")
# Formats of weights that vLLM has a plugin for, each with a file of this name.
FORMATS = ("bitsandbytes", "gguf")
# What a server needs through which gateways share limits.
STATE = os.path.join("bin", "state-requirements.txt")


def start(clone: str, arguments: Sequence[str]) -> None:
    """Replace this process by the launcher, in the environment that the arguments need."""
    open_missing_streams()
    given = arguments
    translation = translate(given)
    arguments = translation.arguments
    command = read_early(arguments)
    # What a configuration needs is looked up in them; the launcher translates again, and tells.
    os.environ.update(translation.variables)
    try:
        python = chosen_python(os.environ)
        if python is None:
            name = choose_environment(command, arguments, os.environ)
            environment = Environment(clone, name, _more(name, command, arguments))
            python = environment.python
            if not environment.is_current():
                if environment.name != "light":
                    _look(clone, given)
                _make(environment)
    except EnvironmentProblem as problem:
        sys.exit(f"vgate: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    os.environ["PYTHONPATH"] = _path_with(clone)
    os.execv(python, [python, "-m", "vgate.launcher", *given])  # noqa: S606 - no shell wanted


def _more(name: str, command: str | None, arguments: Sequence[str]) -> list[str]:
    """Return the requirements files of what only some configurations use."""
    more = [STATE] if shares_state(command, arguments, os.environ) else []
    if name != "light":
        if uses_ray(arguments, os.environ):
            more.insert(0, RAY)
        formats = weight_formats(arguments, os.environ)
        return [*more, *(os.path.join("bin", f"{one}-requirements.txt") for one in formats)]
    traced = command in _WITH_FRONTENDS and traces(arguments, os.environ)
    return [OTEL, *more] if traced else more


def _make(environment: Environment) -> None:
    from vgate.launcher.environments.make import prepare

    prepare(environment)


def _look(clone: str, arguments: Sequence[str]) -> None:
    """End with what is wrong, before the engine is installed: gigabytes for nothing."""
    import subprocess

    state = [STATE] if shares_state(None, arguments, os.environ) else []
    light = Environment(clone, "light", state)
    if not light.is_current():
        _make(light)
    program = (
        "import sys; from vgate.launcher.cli import main; "
        "sys.exit(main(sys.argv[1:], only_look=True))"
    )
    environ = {**os.environ, "PYTHONPATH": _path_with(clone)}
    looked = subprocess.run([light.python, "-c", program, *arguments], check=False, env=environ)
    if looked.returncode:
        sys.exit(looked.returncode)


def _path_with(clone: str) -> str:
    others = os.environ.get("PYTHONPATH")
    return clone + os.pathsep + others if others else clone


def chosen_python(environ: Mapping[str, str]) -> str | None:
    """Return the path of the interpreter that VGATE_PYTHON names."""
    wanted = environ.get("VGATE_PYTHON")
    if not wanted:
        return None
    import shutil

    path = shutil.which(wanted, path=environ.get("PATH"))
    if path is None:
        raise EnvironmentProblem(f"VGATE_PYTHON={wanted} is not an executable file")
    return os.path.abspath(path)


def choose_environment(
    command: str | None, arguments: Sequence[str], environ: Mapping[str, str]
) -> str:
    """Return the name of the environment that this start needs."""
    simulated = "--dry-run" in arguments or dry_run_is_set(environ)
    asks = not {"--probe", "--help", "-h"}.isdisjoint(arguments)
    if command not in _WITH_ENGINE or simulated or asks:
        return "light"
    return "vllm-cuda" if gpu_is_visible(environ) else "vllm-cpu"


def traces(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether `tracing.endpoint` is set."""
    if environ.get("VGATE_TRACING__ENDPOINT"):
        return True
    # Nothing else has a key of this name.
    return any(value.startswith("http") for value in _values("endpoint:", arguments, environ))


def uses_ray(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether the workers of a model are started by Ray."""
    if environ.get("VGATE_MODEL__DISTRIBUTED_EXECUTOR_BACKEND") == "ray":
        return True
    # With dashes in a file of vLLM's flags.
    keys = ("distributed_executor_backend:", "distributed-executor-backend:")
    return any("ray" in _values(key, arguments, environ) for key in keys)


def weight_formats(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the formats that `model.quantization` names and vLLM needs a plugin for."""
    named = _values("quantization:", arguments, environ)
    named.append(environ.get("VGATE_MODEL__QUANTIZATION", ""))
    return [one for one in FORMATS if one in named]


def shares_state(command: str | None, arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether `state.url` is set, for a command that looks at it."""
    if command not in (*_WITH_FRONTENDS, CHECK):
        return False
    if environ.get("VGATE_STATE__URL"):
        return True
    schemes = ("valkey", "redis", "unix:")
    return any(value.startswith(schemes) for value in _values("url:", arguments, environ))


def _values(key: str, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return what follows a key; the file is only skimmed, as nothing here reads YAML."""
    path = environ.get("VGATE_CONFIG_PATH") or "config.yaml"
    if "--config" in arguments[:-1]:
        path = arguments[list(arguments).index("--config") + 1]
    try:
        with open(path, encoding="utf-8") as file:
            values = [f" {line}".partition(" #")[0].partition(key)[2] for line in file]
    except (OSError, UnicodeDecodeError):
        return []
    return [value.partition(",")[0].strip(" \"'}\n") for value in values]


def dry_run_is_set(environ: Mapping[str, str]) -> bool:
    """Whether VGATE_DRY_RUN asks for the simulated engine."""
    return environ.get("VGATE_DRY_RUN", "").strip().lower() in ("1", "true", "yes", "on")


def gpu_is_visible(environ: Mapping[str, str], device: str = "/dev/nvidia0") -> bool:
    """Whether an NVIDIA GPU can be used here."""
    # CUDA's way to hide GPUs from a program.
    if environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if os.path.exists(device):
        return True
    # WSL 2 has no such file, and neither has a container with another GPU than the first.
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU" in listed.stdout


def open_missing_streams() -> None:
    """Open /dev/null for closed standard streams, or other files would be taken for them."""
    for stream in (0, 1, 2):
        try:
            os.fstat(stream)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
