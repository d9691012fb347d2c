"""A real V-Gate instance for tests: its processes, its URL, its logs, and its shutdown."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import openai
import psutil

from bench import loop_holds

ROOT = Path(__file__).parents[2]
# Of vLLM in an environment that nothing has compiled yet, beside another lane of bin/test.
START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 30


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Poll until `condition` is true and return its value; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    message = f"not within {timeout_s} s: {what}"
    raise AssertionError(message)


class Instance:
    """Starts `python -m vgate.launcher` on a free port; a context manager.

    Args:
        run_dirs: Where its run directory is made.
        dry_run: Use the dry-run engine instead of vLLM.
        holds: Where its frontends record the holds of their loops; see `bench.loop_holds`.
        settings: Configuration as section__key=value; values that aren't text go as JSON.
    """

    def __init__(
        self, run_dirs: Path, *, dry_run: bool, holds: Path | None = None, **settings: Any
    ) -> None:
        self.port = free_port()
        self.holds = holds
        self.url = f"http://127.0.0.1:{self.port}"
        self.run_dir = Path(settings.get("server__run_dir") or run_dirs / str(self.port))
        self._dry_run = dry_run
        # Most suites look at generations, which a cache would spare; those of the cache ask for it.
        self._settings = {
            "server__run_dir": str(self.run_dir),
            "server__state_dir": str(run_dirs / "state"),
            "cache__enabled": False,
            # Of vLLM: each suite has settings of its own, for which it would be done.
            **({} if dry_run else {"model__fill": "never"}),
            **settings,
        }
        self._logs = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `discard`
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> Self:
        """Start the launcher without waiting for it, as a service: it belongs to no terminal."""
        self.process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._logs,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def command(self) -> list[str]:
        """Return the command that starts it."""
        return [sys.executable, "-m", "vgate.launcher", *(["--dry-run"] if self._dry_run else [])]

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which it starts."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VGATE_")}
        # vLLM's import is slow without its compiled files, and some machines forbid them.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if self.holds is not None:
            environment |= loop_holds.environment(self.holds)
        environment["VGATE_CONFIG_PATH"] = os.devnull
        environment["VGATE_SERVER__PORT"] = str(self.port)
        for key, value in self._settings.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment[f"VGATE_{key.upper()}"] = text
        return environment

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Wait until every frontend is ready."""

        def announced() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the launcher died:\n{self.logs()}"
            # JSON logs have it as an event.
            return "V-Gate is ready" in self.logs() or '"event":"serving"' in self.logs()

        wait_until(announced, timeout_s, f"ready; logs:\n{self.logs()}")
        return self

    def ready(self) -> bool:
        """Request /ready on a new connection."""
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def logs(self) -> str:
        """Return all output of its processes."""
        return os.pread(self._logs.fileno(), 10_000_000, 0).decode(errors="replace")

    def has_problem(self) -> str | None:
        """Return the logs from the first line that a client must not be able to cause."""
        lines = self.logs().splitlines()
        for number, line in enumerate(lines):
            if line.lstrip().startswith("Traceback") or " ERROR " in line or "panicked" in line:
                return "\n".join(lines[number : number + 30])
        return None

    def processes(self) -> list[psutil.Process]:
        """Return the launcher and all its descendants."""
        assert self.process is not None
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def pid_of(self, role: str) -> int:
        """Return the pid of "engine", "frontend-1", ..."""
        return self.pids()[role]

    def pids(self) -> dict[str, int]:
        """Return the pids of all children by role."""
        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "vgate.engine" in command:
                number = command[command.index("--engine") + 1]
                found["engine" if number == "0" else f"engine-{number}"] = child.pid
            elif "vgate.frontend" in command:
                found[f"frontend-{command[command.index('--worker') + 1]}"] = child.pid
        return found

    def stats(self, key: str) -> dict[str, Any]:
        """Return /stats' limits by the name of their key; `key` is the key of the request."""
        headers = {"Authorization": f"Bearer {key}"}
        body = httpx.get(f"{self.url}/stats", headers=headers, timeout=10).json()
        return {row["key"]: row for row in body["limits"]}

    def batching(self, key: str) -> int:
        """Return the sequence steps of the main engine so far, once it is idle."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        seen: list[int] = []

        def settled() -> bool:
            body = httpx.get(f"{self.url}/stats", headers=headers, timeout=10).json()
            seen.append(body["engines"][0]["batching"].get("sequence_steps", 0))
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        wait_until(settled, 30, "the engine is idle")
        return seen[-1]

    def client(self, **options: Any) -> openai.OpenAI:
        """Return the official client."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=60, **options
        )

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        """Return the official asynchronous client."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120, **options
        )

    @property
    def model(self) -> str:
        """Name of the served model."""
        name: str = httpx.get(f"{self.url}/v1/models", timeout=5).json()["data"][0]["id"]
        return name

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        self.launch()
        try:
            return self.wait_ready()
        except BaseException:
            self.discard()
            raise

    def __exit__(self, *_exception: object) -> None:
        try:
            self.stop()
        finally:
            self.discard()

    def discard(self) -> None:
        """Kill it in any state."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._logs.close()
