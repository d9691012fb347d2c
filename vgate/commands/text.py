"""How commands show numbers, tables and a picture that changes, on a terminal or without one."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Self

BOLD, DIM, REVERSE, RED, GREEN, YELLOW = "1", "2", "7", "31", "32", "33"

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_GB, _MB = 1e9, 1e6
_SPANS = (_HOUR, "h"), (_MINUTE, "min")
# The other screen of the terminal, as editors use it, without a cursor; and back.
_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


def is_terminal() -> bool:
    """Whether standard output is a terminal that can do more than print lines."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    """Return the text in a style, such as `DIM`, where the terminal has it and it is wanted."""
    # https://no-color.org
    wanted = is_terminal() and not os.environ.get("NO_COLOR")
    return f"\x1b[{style}m{text}\x1b[0m" if wanted else text


def plain(text: object) -> str:
    """Return a text of somebody else without what a terminal would take for a command."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text)
    )


def say(text: str) -> None:
    """Print a line, and flush it, so that whoever reads a pipe sees it now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line to standard error: what the command says of itself, not its output."""
    sys.stderr.write(f"vgate: {text}\n")


def cut(text: str, width: int) -> str:
    """Return the text, or its beginning if more than `width` characters of it are shown."""
    parts = _STYLE.split(text)
    for index in range(0, len(parts), 2):  # the others are styles
        if len(parts[index]) > width:
            parts[index] = parts[index][: max(0, width - 1)] + "…" * (width > 0)
        width -= len(parts[index])
    return "".join(parts)


def duration(seconds: float) -> str:
    """Return such as "0.4 s", "41 s", "3 min 20 s", "5 h 2 min", "12 d 3 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name} {seconds % unit // smaller:.0f} {smaller_name}"
    return f"{seconds:.0f} s"


def latency(seconds: float | None) -> str:
    """Return such as "9.4 ms", "412 ms", "1.3 s", or "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.1f} s"


def download_text(done: int, total: int, bytes_per_s: float | None) -> str:
    """Return how far a download is: "4.7 of 15.2 GB (31 %), 82.0 MB/s, 2 min left".

    Sizes are in bytes. Without a rate the last two are left out.
    """
    unit, name = (_GB, "GB") if total >= _GB else (_MB, "MB")
    if done >= total:
        return f"{total / unit:.1f} {name}"
    text = f"{done / unit:.1f} of {total / unit:.1f} {name} ({100 * done // total} %)"
    if not bytes_per_s:
        return text
    left_s = (total - done) / bytes_per_s
    span_s, span = next((each for each in _SPANS if left_s >= 2 * each[0]), (1, "s"))
    return f"{text}, {bytes_per_s / _MB:.1f} MB/s, {left_s / span_s:.0f} {span} left"


def table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a table, whose first columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


class Screen:
    """Shows one picture in the place of the other on a terminal, and one after the other elsewhere.

    A context manager: the terminal is as before afterwards.
    """

    def show(self, lines: Sequence[str]) -> None:
        """Show a picture, cut to the terminal's size."""
        if not is_terminal():
            sys.stdout.write("\n".join(lines) + "\n\n")
        else:
            columns, rows = shutil.get_terminal_size()
            shown = (cut(line, columns) for line in lines[: rows - 1])
            # Each line is written over the earlier one, so that nothing flickers.
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
        sys.stdout.flush()

    def __enter__(self) -> Self:
        if is_terminal():
            sys.stdout.write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        if is_terminal():
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
