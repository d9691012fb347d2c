"""Remembers, in all workers, the requests with which engines died, so that they are refused.

Clients repeat requests that fail. So one that kills its engine would come back and kill the next,
until the launcher has used up its restarts.
"""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from vgate.errors import EngineUnavailableError
from vgate.wire.messages import Embed, Generate

# After two deaths a request ends. It may be innocent, so it may be tried once more.
_MOST_DEATHS = 3

_encode = msgspec.msgpack.Encoder().encode


class Suspects:
    """The requests that engines died with lately, as files of a directory.

    Args:
        directory: Shared by the workers and models of an instance.
        model: The model that the engines run.
        refuse_s: For how long a suspect is remembered after its last death.
    """

    def __init__(self, directory: Path, model: str, refuse_s: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._model = model
        self._refuse_s = refuse_s
        # Every worker notices an engine's death, so none looks for files without one.
        self._until = 0.0

    def on_death(self) -> None:
        """Begin to look: another worker may be about to report a suspect."""
        self._until = time.time() + 2 * self._refuse_s

    def report(self, message: Generate | Embed, deaths: int) -> None:
        """Remember a request that ended because so many engines died while they ran it."""
        path = self._path(message)
        with suppress(OSError):  # Nothing else depends on it.
            if deaths > self._deaths(path):
                path.write_text(str(deaths))
            for old in self._directory.iterdir():
                if self._left_s(old) <= 0:
                    old.unlink(missing_ok=True)

    def check(self, message: Generate | Embed) -> int:
        """Return how many engines died while they ran such a request; usually 0.

        Raises:
            EngineUnavailableError: Too many.
        """
        if time.time() >= self._until:
            return 0
        path = self._path(message)
        deaths = self._deaths(path)
        if deaths >= _MOST_DEATHS:
            reason = f"{deaths} engines died while they worked on this request; it is refused"
            raise EngineUnavailableError(reason, retry_after_s=max(1.0, self._left_s(path)))
        return deaths

    def _path(self, message: Generate | Embed) -> Path:
        shaping: tuple[object, ...] = (self._model, message.tenant, message.prompt)
        if isinstance(message, Generate):
            shaping = (*shaping, message.sampling, message.options)
        digest = hashlib.blake2b(_encode(shaping), digest_size=16)
        return self._directory / digest.hexdigest()

    def _deaths(self, path: Path) -> int:
        if self._left_s(path) <= 0:
            return 0
        try:
            return int(path.read_text() or 0)
        except (OSError, ValueError):
            return 0  # It was removed, or is being written.

    def _left_s(self, path: Path) -> float:
        """Return the seconds until a suspect is forgotten; 0 or less if it is."""
        try:
            left_s = path.stat().st_mtime + self._refuse_s - time.time()
        except OSError:
            return 0.0
        # If the clock was set back, nobody knows how old it is.
        return left_s if left_s <= self._refuse_s else 0.0
