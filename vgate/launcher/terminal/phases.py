"""How the phases of a start are shown: refreshed in place on a terminal, dated lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vgate.commands.text import download_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, Task, TaskID

    from vgate.launcher.output import Output

_UPDATE_EVERY_S = 60.0


class DatedLines:
    """A dated line for each phase, and one a minute for a download.

    An engine is named by a key, and is in one phase at a time.
    """

    def __init__(self, out: Output) -> None:
        self._out = out
        # By key: the title, and when it began, with how much was there.
        self._current: dict[str, tuple[str, float, int]] = {}
        self._next_update = 0.0

    def phase(self, key: str, title: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Begin a phase, or go on in it: so much of its download is there."""
        now = time.monotonic()
        known, began, before = self._current.get(key, ("", 0.0, 0))
        if known != title:
            self._current[key] = title, now, done_bytes
            self._next_update = now + _UPDATE_EVERY_S
            self.show(title)
        elif total_bytes and not before:
            self._current[key] = title, now, done_bytes or 1
        elif total_bytes and now >= self._next_update:
            self._next_update = now + _UPDATE_EVERY_S
            speed = (done_bytes - before) / (now - began)
            self.show(f"{title}: {download_text(done_bytes, total_bytes, speed)}")

    def drop(self, key: str) -> None:
        """Forget the phase of an engine that has died."""
        self._current.pop(key, None)

    def tick(self) -> None:
        """Nothing passes here."""

    def show(self, text: str) -> None:
        """Show lines of text."""
        date = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = [f"{date} {line.strip()}\n" for line in text.splitlines() if line]
        self._out.write("".join(lines))

    def end(self) -> None:
        """End all phases."""
        self._current.clear()


class LivePhases:
    """All phases with the time that they take, which leave nothing behind.

    Its methods are those of `DatedLines`; call `tick` several times a second.
    """

    def __init__(self, out: Any) -> None:
        # Only here: a service never shows anything, and its memory counts.
        from rich.console import Console

        self._console = Console(file=out, force_terminal=True, highlight=False)
        self._progress: Progress | None = None
        self._current: dict[str, tuple[str, TaskID]] = {}

    def phase(self, key: str, title: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Begin a phase, or go on in it."""
        if self._progress is None:
            self._progress = self._begin()
        known, task = self._current.get(key, ("", None))
        if known != title:
            if task is not None:
                self._progress.update(task, total=1, completed=1, bytes=0)
            task = self._progress.add_task(title, total=None, bytes=0)
            self._current[key] = title, task
        if task is not None and total_bytes:
            self._progress.update(task, completed=done_bytes, total=total_bytes, bytes=total_bytes)
        self.tick()

    def _begin(self) -> Progress:
        from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        class Download(ProgressColumn):
            def render(self, task: Task) -> RenderableType:
                total = task.fields["bytes"]
                return ProgressBar(total, task.completed, width=20) if total else ""

        class Elapsed(ProgressColumn):
            def render(self, task: Task) -> RenderableType:
                elapsed_s = (task.finished_time if task.finished else task.elapsed) or 0.0
                text = f"{elapsed_s:.0f} s"
                if total := task.fields["bytes"]:
                    text += f", {download_text(int(task.completed), total, task.speed)}"
                return Text(text)

        progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            Download(),
            Elapsed(),
            console=self._console,
            auto_refresh=False,
            get_time=time.monotonic,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        progress.start()
        return progress

    def drop(self, key: str) -> None:
        """Forget the phase of an engine that has died, instead of ticking it off."""
        _, task = self._current.pop(key, ("", None))
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)
            self.tick()

    def tick(self) -> None:
        """Show the time that passes."""
        if self._progress is not None:
            self._progress.refresh()

    def show(self, text: str) -> None:
        """Show lines of text, above the phases."""
        self._console.print(text, markup=False, soft_wrap=True)

    def end(self) -> None:
        """End all phases, and remove them from the screen."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None
        self._current.clear()
