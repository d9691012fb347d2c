"""Where a frontend's keys come from: the configuration, the key file, and the last valid keys."""

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
    """Reads the keys as often as they change, and keeps the last valid ones.

    They are also kept in the run directory: a worker that starts while the key file is broken or
    missing takes them from there, because the other workers still use them.

    Args:
        security: The configuration's section.
        kept: The file of the last valid keys, hashes only; shared by all workers.
    """

    def __init__(self, security: Security, kept: Path) -> None:
        self._configured = security.api_keys
        self._file = Path(security.key_file) if security.key_file else None
        self._kept = kept
        # Before the file is first read, so that no change in between is missed.
        self._watcher = KeyFileWatcher(self._file) if self._file else None

    @property
    def changes(self) -> bool:
        """Whether the keys can change while the process runs."""
        return self._watcher is not None

    def changed(self) -> bool:
        """Return whether the key file changed since the last call."""
        return self._watcher is not None and self._watcher.changed()

    def first(self) -> KeyRing:
        """Read the keys for the first time in this process.

        Raises:
            KeysError: They are invalid, and there are no earlier valid ones.
        """
        try:
            return self.read()
        except KeysError as error:
            if not self._kept.exists():
                raise
            log.error("key file is invalid; using the last valid keys", reason=error)
            return KeyRing(read_key_file(self._kept))

    def read(self) -> KeyRing:
        """Read the keys.

        Raises:
            KeysError: They are invalid. So is a key file that has disappeared: it does not mean
                that there are no keys, but a mistake, or an editor between two steps.
        """
        if self._file is not None and self._kept.exists() and not self._file.exists():
            raise KeyFileError(self._file, None, "it has disappeared")
        ring = KeyRing.build(self._configured, self._file)
        if self._file is not None and self._file.exists():
            self._keep(ring)
        return ring

    def _keep(self, ring: KeyRing) -> None:
        draft = self._kept.with_name(f"{self._kept.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # with a full disk, only restarted workers miss it
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(msgspec.json.encode(key) + b"\n" for key in ring)
            draft.replace(self._kept)
