"""The logs of libraries, which say much about themselves and seldom something about the service."""

import logging
from collections.abc import Iterable
from functools import lru_cache


def library_of(record: logging.LogRecord) -> str | None:
    """Return the library that a record comes from; None if it is ours."""
    return _library_of(record.name)


@lru_cache(maxsize=1024)
def _library_of(logger: str) -> str | None:
    package = logger.partition(".")[0]
    return None if package == "vgate" else package.strip("_")


class Libraries(logging.Filter):
    """Lowers what libraries say below warnings to the level `chatter`; for a handler.

    Records are logged from the level `least` on.

    Attributes:
        harmless: What warnings that mean nothing here begin with; those are at debug.
    """

    def __init__(self, least: int, chatter: int) -> None:
        super().__init__()
        self._least = least
        self._chatter = chatter
        self.harmless: tuple[str, ...] = ()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged, at the level that it has then."""
        if record.levelno <= logging.WARNING and library_of(record) is not None:
            level = min(record.levelno, self._chatter)
            if record.levelno == logging.WARNING:
                of_python = record.name == "py.warnings"  # such as what is deprecated
                harmless = of_python or record.getMessage().startswith(self.harmless)
                level = logging.DEBUG if harmless else logging.WARNING
            record.levelno, record.levelname = level, logging.getLevelName(level)
        return record.levelno >= self._least


def adopt(libraries: Iterable[str], harmless: tuple[str, ...]) -> None:
    """Take over the logs of libraries that write them by themselves.

    Warnings that begin with one of the texts `harmless` are at debug from now on.
    """
    for name in libraries:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for handler in logging.root.handlers:
        for one in handler.filters:
            if isinstance(one, Libraries):
                one.harmless = harmless
