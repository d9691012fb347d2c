"""A contender while it runs: its start, its readiness, its processes, its end."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import Self

import msgspec

from bench.compare.processes import Kinds, by_kind, descendants

ROOT = Path(__file__).parents[2]
_POLL_S = 0.02
_PROBE_TIMEOUT_S = 5
_STOP_TIMEOUT_S = 15
_LOG_TAIL_CHARS = 3000


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why."""


class FailedError(Exception):
    """A contender that should run does not; `log` is the end of what it wrote."""

    def __init__(self, message: str, log: str = "") -> None:
        last = log.strip().rpartition("\n")[2]
        super().__init__(f"{message}: {last}" if last else message)
        self.log = log


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one contender, and how to talk to it.

    Attributes:
        name: The contender's name.
        command: Program and arguments.
        environment: Added to this process's own; None takes a variable away.
        port: Where it listens, on 127.0.0.1.
        ready_path: Answers 200 to GET once requests would be served.
        model: What requests name.
        api_key: What requests carry, if anything.
        kinds: What its processes are.
        load_flags: What the load generator is told for it, its checks among them.
        exact_chunks: Whether a stream has exactly one chunk for each token.
    """

    name: str
    command: list[str]
    port: int
    ready_path: str
    kinds: Kinds
    environment: dict[str, str | None] = {}
    model: str = "tiny"
    api_key: str | None = None
    load_flags: tuple[str, ...] = ("--ignore-eos", "--check")
    exact_chunks: bool = False
    ready_timeout_s: float = 180.0

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"


class Running:
    """A started contender; a context manager that ends all of its processes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.start_s = 0.0
        self._started = 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.service.name

    @property
    def processes(self) -> list[tuple[str, int]]:
        """Kind and pid of all that runs for it now."""
        assert self._process is not None
        return by_kind(self._process.pid, self.service.kinds)

    def __enter__(self) -> Self:
        if self._process is None:
            self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> None:
        """Start it without waiting; entering the context waits."""
        environment = dict(os.environ)
        for name, value in self.service.environment.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        self._started = monotonic()
        # A session of its own: Ctrl-C reaches only the comparison, which then ends the contenders.
        self._process = subprocess.Popen(
            self.service.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def wait_ready(self) -> None:
        """Return once it would serve a request.

        Raises:
            FailedError: It has ended, or needs too long.
        """
        assert self._process is not None
        deadline = self._started + self.service.ready_timeout_s
        while not self._ready():
            if self._process.poll() is not None:
                raise FailedError(f"{self.name} has ended while starting", self.log_tail())
            if monotonic() > deadline:
                raise FailedError(f"{self.name} is not ready in time", self.log_tail())
            sleep(_POLL_S)
        self.start_s = monotonic() - self._started

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.service.port, timeout=_PROBE_TIMEOUT_S
        )
        try:
            connection.request("GET", self.service.ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log_tail(self) -> str:
        """Return the end of what its processes wrote."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - _LOG_TAIL_CHARS)
        return os.pread(self._log.fileno(), _LOG_TAIL_CHARS, start).decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end, then end what is left of it."""
        if self._process is None:
            return
        everything = descendants(self._process.pid)
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        # What left the session, or outlived its parent, is known by the list from before.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in everything[1:]:
            if _session(pid) == self._process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._log.close()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
