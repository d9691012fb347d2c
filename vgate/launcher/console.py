"""What the launcher shows people: phases with elapsed time, and where to send a request."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

from vgate import __version__
from vgate.config import Runtime
from vgate.log import Log

_LINE_EVERY_S = 5.0
_CLEAR_LINE = "\r\x1b[K"

log = Log("vgate.launcher")


class Console:
    """Progress on standard output: a refreshed line on a terminal, plain lines elsewhere.

    With JSON logs it stays silent, since then nobody reads standard output; the launcher logs the
    same events.
    """

    def __init__(self, runtime: Runtime, out: TextIO | None = None) -> None:
        self._runtime = runtime
        self._out = out = out or sys.stdout
        self._silent = runtime.config.logging.json_format
        self._tty = out.isatty()
        self._phase: str | None = None
        self._phase_began = 0.0
        self._last_line = 0.0
        self._began = time.monotonic()

    @property
    def url(self) -> str:
        """Where this machine reaches the server."""
        server = self._runtime.config.server
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(server.host, server.host)  # noqa: S104
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{server.port}"

    def starting(self) -> None:
        """Say what is being started."""
        what = ", ".join(model.model_id for model in self._runtime.config.models)
        if self._runtime.backend == "dry_run":
            what = "the dry-run engine: no model, answers repeat the last message"
        self._line(f"V-Gate {__version__} starts {what}")

    def phase(self, phase: str) -> None:
        """Show that a phase of the engine's start began."""
        self._end_phase()
        self._phase, self._phase_began = phase, time.monotonic()
        self._last_line = self._phase_began
        self.tick()

    def tick(self) -> None:
        """Show the time that the current phase takes. Called a few times a second."""
        if self._phase is None or self._silent:
            return
        now = time.monotonic()
        elapsed = now - self._phase_began
        if self._tty:
            self._out.write(f"{_CLEAR_LINE}  {self._phase} ... {elapsed:.0f} s")
            self._out.flush()
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._line(f"  {self._phase} ... {elapsed:.0f} s")

    def serving(self) -> None:
        """Show that requests are served, and how to send one."""
        self._end_phase()
        name = self._runtime.config.model.served_names[0]
        body = {"model": name, "messages": [{"role": "user", "content": "Hello!"}]}
        elapsed = time.monotonic() - self._began
        self._line(f"V-Gate is ready on {self.url} after {elapsed:.1f} s. Try:\n")
        self._line(
            f"  curl {self.url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            f"    -d '{json.dumps(body)}'\n"
        )
        self._line("Ctrl-C stops it.")

    def say(self, text: str) -> None:
        """Show a line."""
        self._end_phase()
        self._line(text)

    def _end_phase(self) -> None:
        if self._phase is not None and not self._silent:
            elapsed = time.monotonic() - self._phase_began
            clear = _CLEAR_LINE if self._tty else ""
            self._line(f"{clear}  {self._phase}: {elapsed:.1f} s")
        self._phase = None

    def _line(self, text: str) -> None:
        if not self._silent:
            print(text, file=self._out, flush=True)
