"""The log of an instance on a terminal: a file, and above the prompt what somebody must see.

A service writes its log to standard error, where systemd or a container's runtime keeps it. On a
terminal it would bury what is to be read, and it would be lost with the window.
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from vgate.config import Config
from vgate.launcher.output import Output

_MOST_BYTES = 10 << 20
_EARLIER_FILES = 4
# A line of `vgate.log.PlainFormatter` and its level; a library's has a colon in the process.
_OWN_LINE = re.compile(rb"[\d-]{10} \d\d:\d\d:\d\d\.\d{3} ([A-Z]+) +[\w-]+  ")
_SHOWN = {b"WARNING", b"ERROR", b"CRITICAL"}


class LogFile(Output):
    """Keeps lines in a file of bounded size, and shows V-Gate's own warnings and errors.

    A file that can't be written stops nothing: that is shown once, and tried again.

    Attributes:
        path: The file; earlier ones are beside it, as `.1` and so on.
        show: Shows a line on the terminal.
    """

    def __init__(self, path: Path, show: Callable[[str], object]) -> None:
        self.path = path
        self.show = show
        self._file: io.FileIO | None = None
        self._told = False
        super().__init__(-1)

    def isatty(self) -> bool:
        """It is none."""
        return False

    def write(self, text: str, /) -> int:
        """Write lines of the launcher; those that are not of its log are for the terminal."""
        lines = text.encode(errors="backslashreplace")
        self._show(lines, others=True)
        self.write_bytes(lines)
        return len(text)

    def pass_on(self, lines: bytes, process: str) -> None:
        """Write whole lines that a process has written."""
        self._show(lines, others=False)
        self.write_bytes(lines)

    def end(self) -> None:
        """Wait until everything is written, for a limited time, and close the file."""
        super().end()
        if self.wait_written(0) and self._file is not None:
            self._file.close()
            self._file = None

    def _show(self, lines: bytes, *, others: bool) -> None:
        for line in lines.splitlines():
            own = _OWN_LINE.match(line)
            if own[1] in _SHOWN if own else others:
                self.show(line.decode(errors="replace"))

    def _write_all(self, data: bytes) -> bool:
        try:
            while data:
                file = self._opened()
                data = data[file.write(data) :]
        except ValueError:  # `end` has closed it meanwhile
            return False
        except OSError as error:
            if self._file is not None:
                self._file.close()
            self._file = None
            if not self._told:
                self._told = True
                self.show(
                    f"The log can't be written to {self.path} ({error.strerror}): until it can, "
                    "only warnings and errors are shown, here."
                )
            return False
        return True

    def _opened(self) -> io.FileIO:
        """Return the file; begin another if it is full."""
        # Read once: `end` may take it away at any moment.
        file = self._file
        if file is not None and file.tell() >= _MOST_BYTES:
            file.close()
            file = None
            for number in range(_EARLIER_FILES, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    self._numbered(number - 1).replace(self._numbered(number))
        if file is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            self._file = file = io.FileIO(opened, "a")
        return file

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


@contextlib.contextmanager
def kept(config: Config, terminal: Output | None) -> Iterator[Output | None]:
    """Make `sys.stderr` a `LogFile` if it is a terminal; yield where processes write."""
    if terminal is None or not terminal.isatty() or config.logging.json_format:
        yield terminal
        return
    log_file = LogFile(config.server.log_path, lambda line: terminal.write(f"{line}\n"))
    with contextlib.redirect_stderr(log_file):
        try:
            yield log_file
        finally:
            log_file.end()
