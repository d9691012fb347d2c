"""API keys: their hashes and limits, the key file, and how the key of a request is found.

Frontends read the key file; the launcher's ``vgate keys`` edits it. Only SHA-256 hashes are kept. A
generated key has 256 random bits, so its hash can't be reversed by guessing and needs neither salt
nor a slow hash function.

The key file has one JSON object in each line, with the fields of `ApiKey`. Empty lines and lines
that begin with ``#`` are comments.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.validation import explain

_PREFIX = "vg-"
_RANDOM_BYTES = 32
_NO_KEY = hashlib.sha256(b"").digest()
# A header's value (RFC 9110, 5.5), without the bytes beyond ASCII, which each client encodes in its
# own way, and without the space around it, which is not part of it.
_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")

PositiveInt = Annotated[int, Meta(ge=1)]
# The stamps of the requests in a window are kept, 16 bytes each.
RequestLimit = Annotated[int, Meta(ge=1, le=1_000_000)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
# One line of a terminal or a log. An argument that is no valid text has lone surrogates.
KeyName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}$")]


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key may use.

    Attributes:
        rate_limit: Requests per window; None is the configured default.
        tokens_per_minute: None is the configured default.
        concurrent: Requests at a time; None is the configured default.
        weight: Share of the engine beside other keys whose requests wait.
        min_priority: The most urgent priority that its requests may ask for; lower starts sooner.
    """

    rate_limit: RequestLimit | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent: PositiveInt | None = None
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    min_priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0


class ApiKey(KeyTerms, frozen=True, omit_defaults=True):
    """A key in force, and a line of the key file.

    Attributes:
        name: Whose it is; shown in logs and metrics.
        sha256: Lower-case hex of the key's hash.
        created: ISO 8601 time at which the key was made, if it is in the key file.
    """

    name: KeyName
    sha256: Sha256
    created: str | None = None


class ConfiguredKey(KeyTerms, frozen=True, kw_only=True):
    """An entry of ``security.api_keys``: the key itself or its hash, never both."""

    name: Annotated[str, Meta(min_length=1)]
    key: Annotated[str, Meta(min_length=1)] | None = None
    key_sha256: Sha256 | None = None


class KeysError(Exception):
    """The keys can't be used. The message says which and why, and never contains a key."""


class KeyFileError(KeysError):
    """The key file can't be used.

    Args:
        path: The key file.
        line: Number of the broken line, from 1; None if the file as a whole is the problem.
        problem: What is wrong.
    """

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"the key file {path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


class KeyRing:
    """The keys in force. Immutable: changed keys are a new ring.

    Raises:
        KeysError: Two keys have the same name, or are the same, or one is empty.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_digest: dict[bytes, ApiKey] = {}
        names: set[str] = set()
        for key in keys:
            digest = bytes.fromhex(key.sha256)
            if digest == _NO_KEY:
                # The hash of an unset variable: it would admit every request with an empty key.
                message = f"the hash of the API key `{key.name}` is that of an empty key"
                raise KeysError(message)
            if key.name in names:
                message = f"two API keys have the name `{key.name}`"
                raise KeysError(message)
            if (other := self._by_digest.get(digest)) is not None:
                message = f"the API keys `{other.name}` and `{key.name}` are the same key"
                raise KeysError(message)
            names.add(key.name)
            self._by_digest[digest] = key

    @classmethod
    def build(cls, configured: Sequence[ConfiguredKey], key_file: Path | None) -> KeyRing:
        """Make a ring of the configured keys and those of the key file.

        Raises:
            KeysError: An entry has neither a key nor a hash, or a key or a name occurs twice.
            KeyFileError: The key file is broken.
        """
        keys = [_from_config(index, entry) for index, entry in enumerate(configured)]
        if key_file is not None:
            keys += read_key_file(key_file)
        return cls(keys)

    def find(self, bearer: str) -> ApiKey | None:
        """Return the key that a client sent; None if there is no such key.

        The time that this takes reveals nothing about the keys. It looks up the hash of what was
        sent, which a client can't choose, so the length of its common prefix with a stored hash is
        random. The hash that was found is compared again in constant time, so that this does not
        depend on how a dict compares.
        """
        # A header may contain any bytes. Such a key is unknown, which is not an error.
        digest = hashlib.sha256(bearer.encode(errors="surrogatepass")).digest()
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(bytes.fromhex(key.sha256), digest):
            return None
        return key

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._by_digest.values())


class KeyFileWatcher:
    """Notices changes of the key file, for a loop that polls.

    Make it before the file is first read, so that no change in between is missed. Writers replace
    the whole file, so the inode shows even a change that keeps its size and time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._identity()

    def changed(self) -> bool:
        """Return whether the file changed, appeared or disappeared since the last call."""
        before, self._seen = self._seen, self._identity()
        return before != self._seen

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def generate_key() -> str:
    """Make a new key: ``vg-`` and 43 URL-safe characters, 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_key(key: str) -> str:
    """Return the lower-case hex SHA-256 of a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def read_key_file(path: Path) -> list[ApiKey]:
    """Read the keys; a missing file has none.

    Raises:
        KeyFileError: It can't be read, a line is not a key, or a key or a name occurs twice.
    """
    return [key for _, key in read_lines(path) if key is not None]


def read_lines(path: Path) -> list[tuple[str, ApiKey | None]]:
    """Read the file's lines, each with its key or, if it is a comment, None.

    Raises:
        KeyFileError: As `read_key_file`.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(path, None, os.strerror(error.errno or 0)) from None
    except UnicodeDecodeError:
        raise KeyFileError(path, None, "it is not text in UTF-8") from None
    lines = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        key = _parse(path, number, line)
        for what in () if key is None else (f"name `{key.name}`", f"hash {key.sha256[:8]}..."):
            if (first := seen.setdefault(what, number)) != number:
                raise KeyFileError(path, number, f"the {what} is in line {first} already")
        lines.append((line, key))
    return lines[:-1] if text.endswith("\n") else lines


def _parse(path: Path, number: int, line: str) -> ApiKey | None:
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    try:
        document = msgspec.json.decode(line)
        return msgspec.convert(document, ApiKey)
    except msgspec.ValidationError as error:
        problem = explain(error)  # without the document: a key in the wrong place is not shown
    except (msgspec.DecodeError, RecursionError):
        raise KeyFileError(path, number, "this is not a JSON object") from None
    raise KeyFileError(path, number, str(problem))


def _from_config(index: int, entry: ConfiguredKey) -> ApiKey:
    where = f"security.api_keys[{index}] (`{entry.name}`)"
    if (entry.key is None) == (entry.key_sha256 is None):
        message = f"{where}: give either `key` or `key_sha256`"
        raise KeysError(message)
    if entry.key is not None and not _SENDABLE.fullmatch(entry.key):
        message = (
            f"{where}: no client can send this key; it may have visible ASCII characters, and "
            "spaces between them"
        )
        raise KeysError(message)
    digest = hash_key(entry.key) if entry.key is not None else str(entry.key_sha256).lower()
    terms = {field: getattr(entry, field) for field in KeyTerms.__struct_fields__}
    document = {"name": entry.name, "sha256": digest, **terms}
    try:
        return msgspec.convert(document, ApiKey)
    except msgspec.ValidationError as error:
        problem = str(explain(error)).replace("`sha256`", "`key_sha256`")
    message = f"{where}: {problem}"
    raise KeysError(message)
