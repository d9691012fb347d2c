"""A real Redis server of the tests' own, without a disk, on a free port. Valkey's would do as well.

As bin/test, `install` needs only Python 3.8 and the standard library.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

SERVERS = ("valkey-server", "redis-server")
TIMEOUT_S = 600
START_S = 30


def find_server() -> str | None:
    """Returns the path of a server's program."""
    return next(filter(None, map(shutil.which, SERVERS)), None)


def install() -> None:
    """Installs Debian's package, if none is there and we are root; without it tests are skipped."""
    apt = shutil.which("apt-get")
    if find_server() or apt is None or os.geteuid() != 0:
        return
    print("installing redis-server", flush=True)
    # Its own service must not start.
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    # Two lanes may install at the same time.
    wait = ["-o", f"DPkg::Lock::Timeout={TIMEOUT_S // 2}"]
    command = [apt, *wait, "-qq", "-y", "--no-install-recommends", "install", "redis-server"]
    for each in (command, [apt, "-qq", "update"], command):
        if not find_server():
            subprocess.run(
                each,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )


class StateServer:
    """A server process; a context manager. It can be paused, killed and started again.

    Args:
        options: Options of its command line, such as "--maxmemory", "2mb".
    """

    def __init__(self, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._options = options
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *more: str) -> Self:
        """Starts it, and waits until it listens."""
        program = find_server()
        assert program is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly"]
        options += ["no", "--dir", self._directory.name, *self._options, *more]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server doesn't listen"
                time.sleep(0.01)
            else:
                return self

    def kill(self) -> None:
        """Kills it: its data is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stops it: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it run again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.kill()
        self._directory.cleanup()
