"""Why a worker process of vLLM could not start, which it logs and the engine is not told.

Workers log errors to a file, too: forked ones because they have this process's handlers, others
because vLLM configures their logs as it is told.
"""

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vgate.engine.backends.base import WorkerDiedError

_FILE, _CONFIG = "workers.log", "workers.json"
# Before each record, which may have several lines.
_MARK = "\x1e"
_FORMAT = f"{_MARK}%(message)s"
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt): (.*)\Z", re.MULTILINE | re.DOTALL)
_NO_MEMORY = "memory"
# Of vllm/v1/executor/multiproc_executor.py.
_NOT_STARTED = "WorkerProc initialization failed"


def configuration(directory: Path) -> Path:
    """Return a file that has workers keep their errors in its directory, for logging.config."""
    handlers = {
        "file": {
            "class": "logging.FileHandler",
            "filename": str(directory / _FILE),
            "formatter": "record",
            "level": "ERROR",
        },
        "stderr": {"class": "logging.StreamHandler", "level": "WARNING"},
    }
    document = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"record": {"format": _FORMAT}},
        "handlers": handlers,
        "loggers": {"vllm": {"handlers": list(handlers), "propagate": False}},
    }
    path = directory / _CONFIG
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@contextmanager
def kept(settings: Any) -> Iterator[None]:
    """Have workers that are started meanwhile keep their errors. This process's log stays ours.

    Args:
        settings: vLLM's LoggingConfig, which each worker applies.
    """
    directory = Path(tempfile.gettempdir())
    if not directory.name.startswith("vgate-"):
        yield  # nobody would remove the files
        return
    before = settings.configure_logging, settings.pylogging_config_file
    settings.configure_logging = True
    settings.pylogging_config_file = str(configuration(directory))
    try:
        yield
    finally:
        settings.configure_logging, settings.pylogging_config_file = before


def inherit(directory: Path) -> None:
    """Have workers that are forked from this process keep their errors there."""
    handler = logging.FileHandler(directory / _FILE)
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger("vllm").addHandler(handler)


def cause(error: Exception) -> Exception:
    """Return why a worker could not start, where an error only says that one couldn't."""
    if _NOT_STARTED not in str(error):
        return error
    if (why := reason(Path(tempfile.gettempdir()))) is not None:
        return RuntimeError(why)
    return WorkerDiedError(
        "a worker process ended while it started; the kernel ends processes where memory is out"
    )


def reason(directory: Path) -> str | None:
    """Return the error of the first worker that failed, a lack of memory before others; or None."""
    try:
        text = (directory / _FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = [error[1].strip() for record in text.split(_MARK) if (error := _last_error(record))]
    lacks = [error for error in found if _NO_MEMORY in error.lower()]
    return next(iter(lacks + found), None)


def _last_error(record: str) -> re.Match[str] | None:
    """Return the error of a record's traceback: its last one, of which the others are causes."""
    last = record.rpartition("Traceback (most recent call last):")[2]
    lines = last.split("\n")
    # What is raised begins the first line that isn't indented.
    start = next((n for n, line in enumerate(lines) if n and line and line[0] != " "), len(lines))
    return _ERROR.match("\n".join(lines[start:]))
