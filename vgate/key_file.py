"""Edits the key file. Writers take turns; readers always see a complete file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from vgate.keys import ApiKey, KeyFileError, KeysError, generate_key, hash_key, read_lines

_HEADER = "# API keys of V-Gate: hashes only. `vgate keys` changes this file.\n"
_MODE = 0o600

Lines = list[tuple[str, ApiKey | None]]


class KeyFile:
    """Edits the key file, or the target of a link; other keys and comments stay as they are.

    Every method raises `KeyFileError` if the file is broken or can't be written, and `KeysError`
    if the key is missing, or exists already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def add(self, key: ApiKey) -> str:
        """Add a key with the name and limits of `key`; return its secret, which is not stored."""
        with self._edit() as lines:
            if any(known is not None and known.name == key.name for _, known in lines):
                raise KeysError(f"there is a key `{key.name}` already; rotate or revoke it")
            secret, line = _renew(key)
            lines.append(line)
        return secret

    def revoke(self, name: str) -> None:
        """Remove a key."""
        with self._edit() as lines:
            del lines[self._find(lines, name)[0]]

    def change(self, name: str, terms: dict[str, Any]) -> None:
        """Give a key other terms, of the fields of `KeyTerms`; the rest stay as they are."""
        with self._edit() as lines:
            index, key = self._find(lines, name)
            key = msgspec.structs.replace(key, **terms)
            lines[index] = msgspec.json.encode(key).decode(), key

    def rotate(self, name: str) -> str:
        """Replace a key by a new one with its name and limits; return the new secret."""
        with self._edit() as lines:
            index, key = self._find(lines, name)
            secret, lines[index] = _renew(key)
        return secret

    def _find(self, lines: Lines, name: str) -> tuple[int, ApiKey]:
        for index, (_, key) in enumerate(lines):
            if key is not None and key.name == name:
                return index, key
        known = ", ".join(f"`{key.name}`" for _, key in lines if key is not None)
        raise KeysError(f"there is no key `{name}` in {self._path}; there are: {known or 'none'}")

    @contextmanager
    def _edit(self) -> Iterator[Lines]:
        """Yield the lines to change, and write them afterwards, under the lock."""
        # The lock is another file, because the key file is replaced. It ends with its process.
        path = self._path.with_name(f".{self._path.name}.lock")
        try:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                lines = read_lines(self._path)
                yield lines
                self._write(lines)
        except OSError as error:
            problem = f"cannot write it: {error.strerror or error}"
            raise KeyFileError(self._path, None, problem) from None

    def _write(self, lines: Lines) -> None:
        text = "".join(f"{line}\n" for line, _ in lines)
        draft = self._path.with_name(f".{self._path.name}.draft")
        draft.unlink(missing_ok=True)  # left by a killed writer, perhaps with another mode
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text if text.startswith("#") else _HEADER + text)
            file.flush()
            os.fsync(file.fileno())  # otherwise a crash of the machine may leave an empty file
        draft.replace(self._path)
        # A key that was said to be revoked stays so after a crash of the machine.
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _renew(key: ApiKey) -> tuple[str, tuple[str, ApiKey]]:
    """Return a new secret, and the line of `key` with its hash."""
    secret = generate_key()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    key = msgspec.structs.replace(key, sha256=hash_key(secret), created=created)
    return secret, (msgspec.json.encode(key).decode(), key)
