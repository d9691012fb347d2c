"""Where a frontend's keys come from: the configuration, the key file, and what was read before."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from vgate.config.schema import Security
from vgate.keys import KeyFileError, KeyFileWatcher, KeyRing, KeysError, read_key_file
from vgate.log import Log

log = Log("vgate.frontend")


class KeySource:
    """Reads the keys again and again, and keeps the last that could be used.

    They are kept in the run directory as well: a worker that is started while the key file is
    broken or gone takes them from there, as the others go on with them.

    Args:
        security: The configuration's section.
        kept: The file of the last good keys, hashes only; shared by all workers.
    """

    def __init__(self, security: Security, kept: Path) -> None:
        self._configured = security.api_keys
        self._file = Path(security.key_file) if security.key_file else None
        self._kept = kept
        # Before the first reading, so that a change in between is seen.
        self._watcher = KeyFileWatcher(self._file) if self._file else None

    @property
    def changes(self) -> bool:
        """Whether the keys can change at all."""
        return self._watcher is not None

    def changed(self) -> bool:
        """Whether to read again."""
        return self._watcher is not None and self._watcher.changed()

    def first(self) -> KeyRing:
        """Read the keys for the first time in this process.

        Raises:
            KeysError: They can't be used, and none could be before.
        """
        try:
            return self.read()
        except KeysError as error:
            if not self._kept.exists():
                raise
            log.error("took the keys read before, those of now can't be used", reason=error)
            return KeyRing(read_key_file(self._kept))

    def read(self) -> KeyRing:
        """Read the keys.

        Raises:
            KeysError: They can't be used; a file that was there and is gone is no list without
                keys, but somebody's editor between two steps, or a mistake.
        """
        if self._file is not None and self._kept.exists() and not self._file.exists():
            raise KeyFileError(self._file, None, "it is gone")
        ring = KeyRing.build(self._configured, self._file)
        if self._file is not None and self._file.exists():
            self._keep(ring)
        return ring

    def _keep(self, ring: KeyRing) -> None:
        draft = self._kept.with_name(f"{self._kept.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk only ends what this is for
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(msgspec.json.encode(key) + b"\n" for key in ring)
            draft.replace(self._kept)
