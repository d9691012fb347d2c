"""A terminal for tests: it has a size, and shows what is left of what was written to it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
from typing import Any, Self

# What rich writes: colours and modes, the cursor to the line's start or up, a line erased, text.
_TOKENS = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def screen_of(written: str) -> list[str]:
    """Return the lines that a terminal shows after a text was written to it."""
    lines, row, column = [""], 0, 0
    for token in _TOKENS.finditer(written):
        text, parameter, command = token[0], token[1], token[2]
        if text == "\r":
            column = 0
        elif text == "\n":  # terminals return as well
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row = max(0, row - int(parameter or 1))
        elif command == "K":
            lines[row] = "" if parameter == "2" else lines[row][:column]
        elif not command:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
    return lines


class Terminal:
    """A pseudo-terminal whose output is read all the time; a context manager.

    Attributes:
        fd: The end for programs.
    """

    def __init__(self, columns: int = 100) -> None:
        self._reading, self.fd = pty.openpty()
        size = struct.pack("HHHH", 40, columns, 0, 0)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)
        self._written = bytearray()
        self._hung_up = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def written(self) -> str:
        """All that was written so far."""
        return self._written.decode(errors="replace")

    def screen(self) -> list[str]:
        """Return the lines that it shows."""
        return screen_of(self.written)

    def type(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self._reading, keys)

    def run(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program whose terminal it is, in a session of its own."""
        take = lambda: os.login_tty(self.fd)  # noqa: E731
        process = subprocess.Popen(command, preexec_fn=take, **options)  # noqa: PLW1509
        self.close()
        return process

    def _read(self) -> None:
        while not self._hung_up.is_set():
            if not select.select([self._reading], [], [], 0.05)[0]:
                continue
            try:
                data = os.read(self._reading, 65536)
            except OSError:  # EIO: no program has it open any more
                break
            self._written += data
        os.close(self._reading)

    def close(self) -> None:
        """Close the end for programs, and read the rest."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def hang_up(self) -> None:
        """Vanish, as a window that is closed."""
        self._hung_up.set()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._thread.join(10)
