"""The server under test: its start, its processes by name, its log, and its end."""

import collections
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from bench.chaos import preparation
from bench.compare.service import (
    ROOT,
    FailedError,
    descendants,
    free_port,
    present,
    vgate_environment,
)
from bench.load.target import Target, resolve

_START_S = 180.0
_STOP_S = 60.0
_KEPT_LINES = 20_000


@contextmanager
def workplace(program: str) -> Iterator[Path]:
    """Yield a directory for a program's V-Gate; end the program with status 1 if that fails."""
    with tempfile.TemporaryDirectory(prefix=f"vgate-{program}-") as directory:
        try:
            yield Path(directory)
        except FailedError as error:
            print(f"bench.{program}: {error}\n{error.log}", file=sys.stderr)
            raise SystemExit(1) from None


class Instance:
    """A V-Gate of its own; a context manager that waits until it serves.

    Args:
        directory: For its run directory and its key file.
        settings: Configuration, as section__key.
        model: A model's directory for vLLM; None for the simulated engine.
        small_disk: Put its run and state directories on a file system of their own.
        loose_clock: Let the file `clock` say by how much its wall clock is off.
        role: "engine" or "frontend" for one that is a part of several hosts.

    Attributes:
        disk: Where its run and state directories are.
        log: The last lines of its log, each with the time at which it came.
        log_is_read: Cleared to stop reading its log.
        own_deaths: When engines died of the faults that `dry_run.fault` sets.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, object],
        model: str | None,
        *,
        small_disk: bool = False,
        loose_clock: bool = False,
        role: str | None = None,
    ) -> None:
        port = free_port()
        self.target: Target = resolve(f"http://127.0.0.1:{port}", allow_remote=False)
        self.disk, self.clock = directory / "disk", directory / "clock"
        self.disk.mkdir(exist_ok=True)
        self._small_disk = small_disk
        self.key, self.key_file = "chaos-key", directory / "keys.jsonl"
        self.log: collections.deque[tuple[float, str]] = collections.deque(maxlen=_KEPT_LINES)
        self.lines = 0
        self.own_deaths: list[float] = []
        # A hang of its own can't be told from one that is inflicted.
        hangs = settings.get("dry_run__fault") == "hang"
        self._own_cause = "no step finished" if hangs else "injected"
        self.log_is_read = threading.Event()
        self.log_is_read.set()
        settings = {
            "server__port": port,
            "server__run_dir": str(self.disk / "run"),
            "server__state_dir": str(self.disk / "state"),
            "cache__enabled": False,
            "security__enabled": True,
            "security__key_file": str(self.key_file),
            "security__api_keys": [{"name": "chaos", "key": self.key}],
            **settings,
        }
        if model is not None:
            settings["model__model_id"] = model
        self._environment = present(vgate_environment(settings))
        if loose_clock:
            self._environment |= preparation.clock(self.clock)
        dry_run = [] if model is not None else ["--dry-run"]
        self._arguments = [*([role] if role else []), *dry_run]
        self.key_file.write_text("")

    def __enter__(self) -> Self:
        if self._small_disk:
            preparation.mount(self.disk)
        self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        deadline = time.monotonic() + _START_S
        try:
            while not self.has_logged("V-Gate is ready"):
                if not self.alive or time.monotonic() > deadline:
                    raise FailedError("the server did not start", self.log_tail())
                time.sleep(0.05)
        except BaseException:  # Ctrl-C, too
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.log_is_read.set()
        known = descendants(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            for pid in known:
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        self._process.communicate()
        if self._small_disk:
            preparation.unmount(self.disk)

    @property
    def command(self) -> list[str]:
        """What starts it."""
        return [sys.executable, "-m", "vgate.launcher", *self._arguments]

    @property
    def targets(self) -> list[Target]:
        """Where it serves."""
        return [self.target]

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the launcher runs."""
        return self._process.poll() is None

    def pids(self, role: str) -> list[int]:
        """Return the pids of its "engine" or "frontend" processes now, in their order."""
        found = []
        for pid in descendants(self._process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if f"vgate.{role}" in command:
                found.append(pid)
        return found

    def has_logged(self, text: str) -> bool:
        """Whether a line of its log contains a text."""
        return any(text in line for _, line in self.log.copy())

    def log_tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(line for _, line in list(self.log)[-40:])

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now, text = time.monotonic(), line.decode(errors="replace").rstrip()
            self.log.append((now, text))
            self.lines += 1
            if "process died" in text and self._own_cause in text:
                self.own_deaths.append(now)
            self.log_is_read.wait()
