"""The keys in force, and which of them a request carries."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from vgate.config.schema import Security
from vgate.errors import AuthenticationError
from vgate.file_watcher import FileWatcher
from vgate.frontend.http import HttpRequest
from vgate.keys import ApiKey, KeyFileError, KeyRing, KeysError, read_key_file
from vgate.log import Log

_POLL_S = 0.25
_SCHEME = "bearer "

log = Log("vgate.frontend")


class KeySource:
    """Reads the keys of the configuration and the key file, and keeps the last valid ones.

    They are kept in the run directory, too, for workers that start while the key file is invalid.

    Args:
        security: The configuration's section.
        kept: The file of the last valid keys, hashes only; shared by all workers.
    """

    def __init__(self, security: Security, kept: Path) -> None:
        self._configured = security.api_keys
        self._file = Path(security.key_file) if security.key_file else None
        self._kept = kept
        # Made before the file is first read, so that no change in between is missed.
        self.watcher = FileWatcher(self._file) if self._file else None

    def first(self) -> KeyRing:
        """Read the keys for the first time in this process.

        Raises:
            KeysError: They are invalid, and there are no earlier valid ones.
        """
        if self.watcher is not None:
            self.watcher.wait()
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
            KeysError: They are invalid, or being written. So is a key file that has disappeared:
                that is a mistake, or an editor between two steps.
        """
        if self._file is not None and self._kept.exists() and not self._file.exists():
            raise KeyFileError(self._file, None, "it has disappeared")
        ring = KeyRing.build(self._configured, self._file)
        if self._file is not None and self.watcher is not None and self.watcher.moved():
            raise KeyFileError(self._file, None, "it is being written")
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


class Authentication:
    """Finds the key of each request, and follows changes of the key file.

    Attributes:
        keys: The keys in force.

    Raises:
        KeysError: There are no valid keys.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: KeySource,
        on_keys: Callable[[KeyRing], None],
    ) -> None:
        self._loop = loop
        self._on_keys = on_keys
        self._source = source
        self._poll: asyncio.TimerHandle | None = None
        self._use(source.first())
        if source.watcher is not None:
            self._poll = loop.call_later(_POLL_S, self._reload, source.watcher)

    def key_of(self, http: HttpRequest) -> ApiKey:
        """Return the key that a request carries.

        Raises:
            AuthenticationError: It carries none, or one that is not, or no longer, valid.
        """
        key = self.keys.find(_secret(http))
        if key is None:
            raise AuthenticationError("the API key is not valid")
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            raise AuthenticationError(
                f"the API key `{key.name}` has expired ({key.expires_at.isoformat()}): ask the "
                "server's operator for another one"
            )
        return key

    def find(self, http: HttpRequest) -> ApiKey | None:
        """Return the key that a request carries, if it carries a valid one."""
        try:
            return self.key_of(http)
        except AuthenticationError:
            return None

    def close(self) -> None:
        """Stop following the key file."""
        if self._poll is not None:
            self._poll.cancel()

    def _reload(self, watcher: FileWatcher) -> None:
        self._poll = self._loop.call_later(_POLL_S, self._reload, watcher)
        if watcher.changed():
            try:
                self._use(self._source.read())
            except KeysError as error:
                if watcher.moved():
                    return  # it is read again when it is at rest
                log.error("key file is invalid; keeping the current keys", reason=error)
            else:
                log.info("keys reloaded", keys=len(self.keys))

    def _use(self, keys: KeyRing) -> None:
        self.keys = keys
        self._on_keys(keys)


def _secret(http: HttpRequest) -> str:
    """Return the API key that a request carries; Anthropic's clients send it as ``x-api-key``."""
    header = http.header("authorization")
    if header is None:
        secret = http.header("x-api-key")
        if secret is None:
            raise AuthenticationError(
                "an API key is required: send `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
        return secret.strip()
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise AuthenticationError("the Authorization header must be `Bearer KEY`")
    return header[len(_SCHEME) :].strip()
