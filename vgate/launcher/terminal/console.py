"""Shows the phases of a start, and how to send a request."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from vgate import __version__
from vgate.config import Runtime
from vgate.config.runtime import DRY_RUN
from vgate.launcher.terminal.card import describe, server_url, try_command
from vgate.launcher.terminal.phases import DatedLines, LivePhases
from vgate.log import Log
from vgate.wire.control import EngineReady

# Of what is said of a row.
_INDENT = 9

log = Log("vgate.launcher")


class Console:
    """Shows progress on standard output; as events of the log if that is JSON.

    Attributes:
        live: It is a terminal, where what is shown must come through `show`.
        url: The server's, as others use it; for engines alone, their addresses.
    """

    def __init__(self, runtime: Runtime, out: Any = None) -> None:
        self._runtime = runtime
        self._silent = runtime.config.logging.json_format
        out = out or sys.stdout
        self._phases: DatedLines | LivePhases | None = None
        self.live = False
        if not self._silent and out is not None:
            self.live = out.isatty() and os.environ.get("TERM") != "dumb"
            self._phases = LivePhases(out) if self.live else DatedLines(out)
        self._began = time.monotonic()
        self._ready: dict[int, EngineReady] = {}
        # By engine: the phase and when it began; and how long those took that have ended.
        self._current: dict[int, tuple[str, float]] = {}
        self._took: dict[tuple[int, str], float] = {}
        if runtime.role == "engine":
            self.url = ", ".join(engine.address for engine in runtime.engines)
        else:
            self.url = server_url(runtime.config.server)

    def starting(self) -> None:
        """Show what is being started."""
        what = ", ".join(model.model_id for model in self._runtime.config.all_models)
        if self._runtime.role == "frontend":
            what = f"frontends for {what}, with engines on other hosts"
        elif self._runtime.backend == DRY_RUN:
            what = "the dry-run engine: no model, answers repeat the last message"
        self.show(f"V-Gate {__version__} starts {what}")

    def phase(self, engine: int, phase: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Begin a phase of an engine's start, or go on in its download."""
        if self._current.get(engine, ("", 0.0))[0] != phase:
            self._end_phase(engine)
            self._current[engine] = phase, time.monotonic()
            if self._silent:
                name = self._runtime.engine_name(engine)
                log.info("engine starting", engine=name, phase=phase)
        if self._phases is not None:
            engines = self._runtime.engines
            prefix = f"{engines[engine].title}: " if len(engines) > 1 else ""
            self._phases.phase(str(engine), prefix + phase, done_bytes, total_bytes)

    def engine_ready(self, engine: int, ready: EngineReady) -> None:
        """End the phases of an engine, which serves."""
        self._end_phase(engine)
        self._ready[engine] = ready

    def drop(self, engine: int) -> None:
        """Forget the phase of an engine that has died."""
        self._current.pop(engine, None)
        if self._phases is not None:
            self._phases.drop(str(engine))

    def tick(self) -> None:
        """Show the time that the phases take. Call it a few times a second."""
        if self._phases is not None:
            self._phases.tick()

    def serving(self) -> None:
        """Show that requests are served, and how to send one."""
        elapsed_s = time.monotonic() - self._began
        if self._runtime.role == "engine":
            self._show_engines(elapsed_s)
            return
        # Engines start beside each other: of each phase, the one that took longest.
        most: dict[str, float] = {}
        for (_engine, phase), seconds in self._took.items():
            most[phase] = max(most.get(phase, 0.0), seconds)
        longest = sorted(most.items(), key=lambda pair: pair[1], reverse=True)[:3]
        took = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in longest)
        config = self._runtime.config
        rows = [("URL", f"{self.url}/v1")]
        if config.server.ui:
            rows.append(("Page", f"{self.url}/"))
        rows += [("Model", text) for text in self._models()]
        if self._runtime.log_file:
            rows.append(("Log", self._runtime.log_file))
        main = self._runtime.engines_of(config.model.name)
        first = next((self._ready[n] for n in sorted(main) if n in self._ready), None)
        command = try_command(config, self.url, first)
        rows.append(("Try", (f" \\\n{' ' * 11}" if self.live else " ").join(command)))
        self.end()
        self.show(
            f"V-Gate is ready on {self.url} after {elapsed_s:.1f} s"
            + (f" ({took})\n\n" if took else "\n\n")
            + "".join(f"  {name:<7}{text}\n" for name, text in rows)
            + ("\nCtrl-C stops it." if self.live else "")
        )

    def _models(self) -> Iterator[str]:
        """Yield what each model's first engine serves, and how many there are to be."""
        for model in self._runtime.config.all_models:
            ready = [n for n in self._runtime.engines_of(model.name) if n in self._ready]
            if not ready:  # it runs elsewhere, or not yet
                if self._runtime.config.unloads_models:
                    yield f"{', '.join(model.served_names)}: on demand"
                continue
            first = self._ready[ready[0]]
            text = describe(model, first)
            count = len(self._runtime.engines_of(model.name))
            serving = "all" if len(ready) == count else f"so far {len(ready)} of"
            text = text if count == 1 else f"{text}; {serving} {count} replicas serve"
            yield f"{text}\n{' ' * _INDENT}{first.chosen}" if first.chosen else text

    def _show_engines(self, elapsed_s: float) -> None:
        """Show that the engines serve, and where."""
        rows = [("Engine", self.url), *(("Model", text) for text in self._models())]
        self.end()
        self.show(
            f"V-Gate is ready for frontends of other hosts after {elapsed_s:.1f} s\n\n"
            + "".join(f"  {name:<7}{text}\n" for name, text in rows)
        )

    def show(self, text: str) -> None:
        """Show a text."""
        if self._phases is not None:
            self._phases.show(text)

    def end(self) -> None:
        """End all phases: what is shown from now on stays."""
        if self._phases is not None:
            self._phases.end()

    def _end_phase(self, engine: int) -> None:
        phase, began = self._current.pop(engine, ("", 0.0))
        if phase:
            before = self._took.get((engine, phase), 0.0)
            self._took[engine, phase] = before + time.monotonic() - began
