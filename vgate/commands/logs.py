"""``vgate logs``: the log of an instance that runs, or ran, on a terminal of this machine."""

import argparse
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from vgate.commands.command import CommandError
from vgate.config import Config

_POLL_S = 0.2
_LINES = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the end of the log, or all lines of one request. An instance on a terminal keeps "
        "its log in logs/ of the state directory (server.state_dir). A service writes it to "
        "standard error instead: `journalctl -u vgate`, `docker compose logs vgate`."
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="show new lines as they come, until Ctrl-C"
    )
    parser.add_argument("-n", "--lines", type=int, metavar="N", help=f"number of lines ({_LINES})")
    parser.add_argument(
        "--request", metavar="ID", help="only the lines of the request with this X-Request-ID"
    )


def run(options: argparse.Namespace, config: Config) -> None:
    """Show it."""
    path = config.server.log_path
    if not path.exists():
        raise CommandError(_missing(path.parent, config.server.port))
    wanted = options.request.encode() if options.request else b""
    most = options.lines if options.lines is not None else None if wanted else _LINES
    try:
        with path.open("rb") as file:
            lines = _about(wanted, chain(_earlier_lines(path), file))
            last = deque(lines, most if most is None else max(0, most))
            for line in last:
                _show(line)
            if options.follow:
                for line in _about(wanted, _new_lines(path, file)):
                    _show(line)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(f"cannot read {error.filename or path}: {error.strerror}") from None
    if wanted and not last and most != 0:
        raise CommandError(f"nothing about {options.request} in {path}")


def _missing(folder: Path, port: int) -> str:
    others = sorted(path.stem.removeprefix("vgate-") for path in folder.glob("vgate-*.log"))
    if others:
        named = ", ".join(f"--port {other}" for other in others)
        return f"there is no log of port {port} in {folder}; there is one for {named}"
    return (
        f"there is no log in {folder}: an instance writes one there when it runs on a terminal; "
        "that of a service is shown by `journalctl -u vgate`, of a container by `docker logs`"
    )


def _earlier_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of the files that were full before this one, the oldest first."""
    for other in sorted(path.parent.glob(f"{path.name}.[0-9]"), reverse=True):
        with other.open("rb") as file:
            yield from file


def _about(wanted: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines with a text, and the indented ones that continue them; or all lines."""
    inside = False
    for line in lines:
        inside = wanted in line or (inside and line.startswith(b" "))
        if inside:
            yield line


def _new_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines as they are written, also those of the file that follows a full one."""
    rest = b""
    with contextlib.ExitStack() as following:
        while True:
            # Looked at before the last read, so that nothing is lost in between.
            replaced = not _is_same(path, file)
            while line := file.readline():
                rest += line
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
            if replaced and path.exists():
                following.close()
                file = following.enter_context(path.open("rb"))
            else:
                time.sleep(_POLL_S)


def _is_same(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _show(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
