"""API keys: what is kept of them, the file they are in, and how a request's key is found.

Read by frontends, which let requests in, and by the launcher, whose ``vgate keys`` edits the file.
Only SHA-256 hashes are kept. A generated key has 256 random bits, so its hash can't be reversed by
guessing and needs neither salt nor a slow hash function.

The key file has one JSON object on a line, with the fields of `ApiKey`; empty lines and lines that
begin with ``#`` are comments.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from vgate.validation import explain

_PREFIX = "vg-"
_RANDOM_BYTES = 32
_NO_KEY = hashlib.sha256(b"").digest()
# What a header's value may be (RFC 9110, 5.5), without the bytes beyond ASCII that few clients send
# alike, and without the space around it, which is not part of it.
_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")

PositiveInt = Annotated[int, Meta(ge=1)]
# The window's stamps are kept, eight bytes each.
RequestLimit = Annotated[int, Meta(ge=1, le=1_000_000)]
# One line of a terminal or a log; a lone surrogate is an argument that is no text.
KeyName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}$")]


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of one key.

    Attributes:
        sha256: Lower-case hex of the key's hash.
        created: ISO 8601 time at which the key was made, if it is in the key file.
        rate_limit: Requests per window; None is the configured default.
        tokens_per_minute: None is no limit.
        concurrent: Requests at a time; None is no limit.
        weight: Share of the engine beside other keys that wait.
        min_priority: The most urgent priority that its requests may ask for; lower starts sooner.
    """

    name: KeyName
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    created: str | None = None
    rate_limit: RequestLimit | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent: PositiveInt | None = None
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    min_priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0


class ConfiguredKey(Protocol):
    """An entry of ``security.api_keys``: the key itself or its hash, never both."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as in ApiKey, and so are those below
    @property
    def key(self) -> str | None: ...  # noqa: D102
    @property
    def key_sha256(self) -> str | None: ...  # noqa: D102
    @property
    def rate_limit(self) -> int | None: ...  # noqa: D102
    @property
    def tokens_per_minute(self) -> int | None: ...  # noqa: D102
    @property
    def concurrent(self) -> int | None: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102
    @property
    def min_priority(self) -> int: ...  # noqa: D102


class KeysError(Exception):
    """The keys can't be used; the message says which and why, and never holds a key."""


class KeyFileError(KeysError):
    """The key file can't be used.

    Args:
        line: The line at fault, from 1; None if it is the file as a whole.
        problem: What is wrong.
    """

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"the key file {path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


class KeyRing:
    """The keys in force; never changed, but replaced by another.

    Raises:
        KeysError: Two keys have the same name, or are the same, or one is empty.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_digest: dict[bytes, ApiKey] = {}
        names: set[str] = set()
        for key in keys:
            digest = bytes.fromhex(key.sha256)
            if digest == _NO_KEY:
                # An unset variable was hashed; whoever sends an empty key would be let in.
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
        """Put the configuration's keys and the key file's together.

        Raises:
            KeysError: An entry is neither a key nor a hash, or keys are there twice.
            KeyFileError: The key file is broken.
        """
        keys = [_from_config(index, entry) for index, entry in enumerate(configured)]
        if key_file is not None:
            keys += read_key_file(key_file)
        return cls(keys)

    def find(self, bearer: str) -> ApiKey | None:
        """Return the key that a client sent, or None if it is not one of ours.

        How long that takes says nothing about the keys. What is looked up is the hash of what was
        sent: a client can't choose it, so how much of it agrees with a stored one tells nothing
        about any key. What the lookup finds is compared once more in constant time, so that this
        does not rest on how a dict compares.
        """
        # A header may hold any bytes; such a key is unknown, no error.
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
    """Tells that the key file is another than before, for a loop that asks now and then.

    Make it before the file is read first: a change in between is then seen, not missed. The file is
    replaced as a whole by its writers, so the inode tells even what size and time do not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._identity()

    def changed(self) -> bool:
        """Whether the file changed, appeared or went since the last call."""
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
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def read_key_file(path: Path) -> list[ApiKey]:
    """Read the keys; a file that is not there holds none.

    Raises:
        KeyFileError: It can't be read, or a line is not a key, or one is there twice.
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
        problem = explain(error)  # without the document: a key in the wrong place is not repeated
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
    document = {
        "name": entry.name,
        "sha256": digest,
        "rate_limit": entry.rate_limit,
        "tokens_per_minute": entry.tokens_per_minute,
        "concurrent": entry.concurrent,
        "weight": entry.weight,
        "min_priority": entry.min_priority,
    }
    try:
        return msgspec.convert(document, ApiKey)
    except msgspec.ValidationError as error:
        problem = str(explain(error)).replace("`sha256`", "`key_sha256`")
    message = f"{where}: {problem}"
    raise KeysError(message)
