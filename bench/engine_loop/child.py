"""An engine in a process of its own, started with `python -m bench.engine_loop.bare` or `.served`.

It says "ready" in a line of its own, then whatever its side defines, and ends with its input.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from bench.engine_loop.workload import Workload
from vgate.config import Config
from vgate.config.schema import Batch, Model

ROOT = Path(__file__).parents[2]
_STOP_TIMEOUT_S = 15
_LOG_TAIL_CHARS = 4000
_NS_PER_S = 1_000_000_000
# Room for prompt and answer, in whole KV blocks of any size.
_CONTEXT_ROUNDING = 256


class EngineFailedError(Exception):
    """A child did not do what it was asked; the message has the end of its log."""


class Settings(msgspec.Struct, frozen=True):
    """What a child is started with, in its command line."""

    model: str
    workload: Workload
    endpoint: str

    def config(self) -> Config:
        """Return the configuration that both sides run on."""
        longest = self.workload.prompt_tokens + self.workload.output_tokens
        context = -(-longest // _CONTEXT_ROUNDING) * _CONTEXT_ROUNDING
        return Config(
            model=Model(model_id=self.model, max_model_len=context),
            batch=Batch(max_batch_size=self.workload.sequences),
        )


class Child:
    """The running process, seen by the one that measures."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    def tell(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Wait for a line.

        Raises:
            EngineFailedError: The process has ended.
        """
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.strip()
        raise EngineFailedError(self.log_tail())

    @property
    def cpu_s(self) -> float:
        """CPU time of all its threads so far."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / _NS_PER_S

    def log_tail(self) -> str:
        """Return the end of what it logged."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-_LOG_TAIL_CHARS:]


@contextmanager
def started(side: str, settings: Settings) -> Iterator[Child]:
    """Start `bench.engine_loop.SIDE`, wait until it is ready, and end it afterwards."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"bench.engine_loop.{side}"),
                msgspec.json.encode(settings).decode(),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            child = Child(process, log)
            child.hear()
            yield child
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def answers() -> IO[str]:
    """Return where a child writes its lines; all else that is printed goes to its log."""
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return own
