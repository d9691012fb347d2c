"""A contender while it runs: its start, its processes by kind and what they use, its end."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Self

import msgspec

from bench.compare.results import Measures
from bench.load.processes import read_process

ROOT = Path(__file__).parents[2]
_POLL_S = 0.02
_PROBE_TIMEOUT_S = 5
_STOP_TIMEOUT_S = 15
_LOG_TAIL_CHARS = 3000

# Text in a process's command line or name, and the kind of such a process; the first match counts.
Kinds = tuple[tuple[str, str], ...]
# Kind and pid of each.
Processes = Sequence[tuple[str, int]]


class UnavailableError(Exception):
    """A contender cannot run here; the message says why."""


class FailedError(Exception):
    """A contender has failed; `log` is the end of its output."""

    def __init__(self, message: str, log: str = "") -> None:
        last = log.strip().rpartition("\n")[2]
        super().__init__(f"{message}: {last}" if last else message)
        self.log = log


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a contender, and how to send requests to it.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        ready_path: GET on it is answered with 200 once requests are served.
        environment: Added to this process's environment; None removes a variable.
        api_key: Sent with requests, if set.
        other_api_key: Another that it knows, if set.
        load_flags: More arguments of the load generator, such as checks.
        exact_chunks: Whether a stream has exactly one chunk per token.
        counters: Where its paced device counts, if it has one.
    """

    command: list[str]
    port: int
    kinds: Kinds
    name: str = ""
    ready_path: str = "/health"
    environment: dict[str, str | None] = {}
    cwd: Path = ROOT
    model: str = "tiny"
    api_key: str | None = None
    other_api_key: str | None = None
    load_flags: tuple[str, ...] = ("--ignore-eos", "--check")
    exact_chunks: bool = False
    ready_timeout_s: float = 180.0
    counters: Path | None = None

    def post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, str, bytes]:
        """Send a request; return the answer's status, content type and body.

        Raises:
            OSError, http.client.HTTPException: There was no answer.
        """
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return self._exchange("POST", path, body, headers, timeout_s)

    def get(self, path: str, timeout_s: float) -> tuple[int, str, bytes]:
        """Ask without a key; return and raise as `post`."""
        return self._exchange("GET", path, None, {}, timeout_s)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout_s: float
    ) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type") or "", response.read()


class Running:
    """A started contender; a context manager that waits until it is ready, and ends it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.start_s = 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context
        self._started = monotonic()
        # A session of its own: Ctrl-C reaches only the comparison, which then ends the contenders.
        self._process = subprocess.Popen(
            service.command,
            cwd=service.cwd,
            env=present(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.service.name

    @property
    def processes(self) -> Processes:
        """Kind and pid of all its processes now."""
        found = [(kind_of(pid, self.service.kinds), pid) for pid in descendants(self._process.pid)]
        return [(kind, pid) for kind, pid in found if kind is not None]

    def __enter__(self) -> Self:
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        while not self._ready():
            if self._process.poll() is not None:
                raise FailedError(f"{self.name} ended while starting", self.log_tail())
            if monotonic() > self._started + self.service.ready_timeout_s:
                raise FailedError(f"{self.name} was not ready in time", self.log_tail())
            sleep(_POLL_S)
        self.start_s = monotonic() - self._started

    def _ready(self) -> bool:
        try:
            return self.service.get(self.service.ready_path, _PROBE_TIMEOUT_S)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def log(self) -> str:
        """Return its processes' output."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def log_tail(self) -> str:
        """Return the end of its processes' output."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - _LOG_TAIL_CHARS)
        return os.pread(self._log.fileno(), _LOG_TAIL_CHARS, start).decode(errors="replace")

    def stop(self) -> None:
        """Terminate it, then kill what is left of it. A second call does nothing."""
        if self._log.closed:
            return
        session = self._process.pid
        known = descendants(session)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)
        for pid in known:  # those that have left the process group
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == session:
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def descendants(root: int) -> list[int]:
    """Return a process and all its descendants, the root first."""
    children: dict[int, list[int]] = {}
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        if (reading := read_process(pid)) is not None:
            children.setdefault(reading.parent, []).append(pid)
    found = [root]
    for pid in found:
        found += sorted(children.get(pid, ()))
    return found


def kind_of(pid: int, kinds: Kinds) -> str | None:
    """Return a process's kind, "other" if none matches, or None if it has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
        text = f"{command} {Path(f'/proc/{pid}/comm').read_text()}"
    except OSError:
        return None
    return next((kind for part, kind in kinds if part in text), "other")


def usage(processes: Processes) -> Measures:
    """Return the processes' memory by kind, and the CPU time of all so far."""
    measures: Measures = {"cpu_s": cpu_s(processes)}
    for kind, pid in processes:
        if (reading := read_process(pid)) is not None:
            for name in ("rss_mib", "peak_rss_mib"):
                before = measures.get(f"{name}.{kind}", 0.0)
                measures[f"{name}.{kind}"] = before + getattr(reading, name)
    return measures


def cpu_s(processes: Processes) -> float:
    """Return the CPU time that the processes have used."""
    readings = (read_process(pid) for _, pid in processes)
    return sum(reading.cpu_s for reading in readings if reading is not None)


def vgate_environment(settings: Mapping[str, object]) -> dict[str, str | None]:
    """Return the variables of a V-Gate with these settings, as section__key, and no others."""
    environment: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("VGATE_")
    }
    environment["VGATE_CONFIG_PATH"] = os.devnull
    for name, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value)
        environment[f"VGATE_{name.upper()}"] = text
    return environment


def present(environment: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with changes, of which None removes a variable."""
    changed = os.environ | environment
    return {name: value for name, value in changed.items() if value is not None}


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
