"""Shows the phases of a start, and how to send a request."""

import json
import sys
import time
from typing import TextIO

from vgate import __version__
from vgate.config import Runtime
from vgate.config.runtime import DRY_RUN
from vgate.launcher.progress import Phase


class Console:
    """Shows progress on standard output, or nothing if the log is JSON, which has the events."""

    def __init__(self, runtime: Runtime, out: TextIO | None = None) -> None:
        self._runtime = runtime
        self._out = out or sys.stdout
        self._silent = runtime.config.logging.json_format
        self._phase: Phase | None = None
        self._began = time.monotonic()

    @property
    def url(self) -> str:
        """The server's URL on this machine."""
        server = self._runtime.config.server
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        scheme = "https" if server.tls.enabled else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"

    def starting(self) -> None:
        """Show what is being started."""
        what = ", ".join(model.model_id for model in self._runtime.config.models)
        if self._runtime.backend == DRY_RUN:
            what = "the dry-run engine: no model, answers repeat the last message"
        self.show(f"V-Gate {__version__} starts {what}")

    def phase(self, phase: str) -> None:
        """Begin a phase of an engine's start."""
        self._end_phase()
        if not self._silent:
            self._phase = Phase(phase, self._out)

    def tick(self) -> None:
        """Show the time that the phase takes. Call it a few times a second."""
        if self._phase is not None:
            self._phase.tick()

    def serving(self) -> None:
        """Show that requests are served, and how to send one."""
        name = self._runtime.config.model.served_names[0]
        body = {"model": name, "messages": [{"role": "user", "content": "Hello!"}]}
        elapsed = time.monotonic() - self._began
        self.show(
            f"V-Gate is ready on {self.url} after {elapsed:.1f} s. Try:\n\n"
            f"  curl {self.url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            f"    -d '{json.dumps(body)}'\n\n"
            "Ctrl-C stops it."
        )

    def show(self, text: str) -> None:
        """End the phase and show a text."""
        self._end_phase()
        if not self._silent:
            print(text, file=self._out, flush=True)

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.end()
        self._phase = None
