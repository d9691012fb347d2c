"""Shows people the phases of a start, and where to send a request."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

from vgate import __version__
from vgate.config import Runtime
from vgate.launcher.progress import Phase


class Console:
    """Progress on standard output.

    With JSON logs it prints nothing, as then nobody reads standard output; the launcher logs the
    same events.
    """

    def __init__(self, runtime: Runtime, out: TextIO | None = None) -> None:
        self._runtime = runtime
        self._out = out or sys.stdout
        self._silent = runtime.config.logging.json_format
        self._phase: Phase | None = None
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
        if not self._silent:
            self._phase = Phase(phase, self._out)

    def tick(self) -> None:
        """Show the time that the current phase takes. Called a few times a second."""
        if self._phase is not None:
            self._phase.tick()

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
        if self._phase is not None:
            self._phase.end()
        self._phase = None

    def _line(self, text: str) -> None:
        if not self._silent:
            print(text, file=self._out, flush=True)
