"""API keys: their hashes and limits, the key file, and how the key of a request is found.

Frontends read the key file; ``vgate keys`` edits it. Each line is a comment (empty, or with ``#``
first) or a JSON object with the fields of `ApiKey`. Only SHA-256 hashes are kept: a generated key
has 256 random bits, so its hash needs neither salt nor a slow hash function.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from vgate.validation import explain

_EMPTY_KEY = hashlib.sha256(b"").digest()
# A header's value (RFC 9110, 5.5): no outer spaces, as they aren't part of it, and only ASCII, as
# clients encode the rest in different ways.
_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")

BudgetPeriod = Literal["day", "month"]
NonEmptyStr = Annotated[str, Meta(min_length=1)]
PositiveInt = Annotated[int, Meta(ge=1)]
# Each request of a window takes 16 bytes.
MOST_REQUESTS = 1_000_000
RequestLimit = Annotated[int, Meta(ge=1, le=MOST_REQUESTS)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
# Fits in one line; `$` alone would let a line feed follow. Python decodes invalid bytes of an
# argument to lone surrogates.
KeyName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}$(?!\n)")]
# Each change of a key has all workers read every line.
ModelNames = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=1024)]], Meta(min_length=1, max_length=256)
]


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key may use. A limit that is None is the configured default.

    Attributes:
        rate_limit: Requests per window.
        weight: Its share of the engine, relative to the other keys with waiting requests.
        min_priority: The most urgent priority that its requests may have; lower starts sooner.
        group: Keys of a group share cached answers, generations and prompts with each other.
        admin: Whether it may see what the other keys use, and administer the server.
        models: The served names that it may use; None for all.
        expires_at: When it stops being valid.
        budget_tokens: Tokens of prompts and answers that it may use in each `budget_period`, a
            calendar day or month in UTC.
    """

    rate_limit: RequestLimit | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent: PositiveInt | None = None
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    min_priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    group: KeyName | None = None
    admin: bool = False
    models: ModelNames | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    budget_tokens: PositiveInt | None = None
    budget_period: BudgetPeriod = "month"


class ApiKey(KeyTerms, frozen=True, omit_defaults=True):
    """A key in force, and a line of the key file; `created` is an ISO 8601 time."""

    name: KeyName
    sha256: Sha256
    created: str | None = None


class ConfiguredKey(KeyTerms, frozen=True, kw_only=True):
    """An entry of ``security.api_keys``: the key or its hash, never both."""

    name: NonEmptyStr
    key: NonEmptyStr | None = None
    key_sha256: Sha256 | None = None


class KeysError(Exception):
    """The keys can't be used. The message says why, and never contains a key."""


class KeyFileError(KeysError):
    """The key file can't be used; `line` counts from 1, None if the whole file is at fault."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        where = f"the key file {path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}")


class KeyRing:
    """The keys in force. It is immutable: when keys change, a new ring is made.

    Raises:
        KeysError: A key or a name occurs twice, or a key is empty.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_digest: dict[bytes, ApiKey] = {}
        names: set[str] = set()
        for key in keys:
            digest = bytes.fromhex(key.sha256)
            if digest == _EMPTY_KEY:
                # Such as the hash of an unset variable. It would admit every empty key.
                raise KeysError(f"the hash of the API key `{key.name}` is that of an empty key")
            if key.name in names:
                raise KeysError(f"two API keys have the name `{key.name}`")
            if (other := self._by_digest.get(digest)) is not None:
                raise KeysError(f"the API keys `{other.name}` and `{key.name}` are the same key")
            names.add(key.name)
            self._by_digest[digest] = key

    @classmethod
    def build(cls, configured: Sequence[ConfiguredKey], key_file: Path | None) -> Self:
        """Return a ring of the configured keys and those in the key file, or raise `KeysError`."""
        keys = [_from_config(index, entry) for index, entry in enumerate(configured)]
        if key_file is not None:
            keys += read_key_file(key_file)
        return cls(keys)

    def find(self, bearer: str) -> ApiKey | None:
        """Return the key that a client sent; None if there is no such key.

        Its duration reveals nothing about the keys: it looks up a hash, which a client can't
        choose, and compares what it finds in constant time, as a dict may not.
        """
        # A header may contain any bytes, and then the key is just unknown.
        digest = hashlib.sha256(bearer.encode(errors="surrogatepass")).digest()
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(bytes.fromhex(key.sha256), digest):
            return None
        return key

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._by_digest.values())


def generate_key() -> str:
    """Return a new key: ``vg-`` and 43 URL-safe characters, 256 random bits."""
    return "vg-" + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Return the lower-case hex SHA-256 of a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def read_key_file(path: Path) -> list[ApiKey]:
    """Read the keys; a missing file has none. Raises as `read_lines` does."""
    return [key for _, key in read_lines(path) if key is not None]


def read_lines(path: Path) -> list[tuple[str, ApiKey | None]]:
    """Return the file's lines, each with its key, or None for a comment.

    Raises:
        KeyFileError: It can't be read, a line is not a key, or a key or a name occurs twice.
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
        # First as JSON alone, so that a broken line isn't reported for its fields.
        return msgspec.convert(msgspec.json.decode(line), ApiKey)
    except msgspec.ValidationError as error:
        # Without its value: it may be a key in the wrong place.
        problem = str(explain(error))
    except (msgspec.DecodeError, RecursionError):
        problem = "this is not a JSON object"
    raise KeyFileError(path, number, problem)


def _from_config(index: int, entry: ConfiguredKey) -> ApiKey:
    where = f"security.api_keys[{index}] (`{entry.name}`)"
    if (entry.key is None) == (entry.key_sha256 is None):
        raise KeysError(f"{where}: give either `key` or `key_sha256`")
    if entry.key is not None and not _SENDABLE.fullmatch(entry.key):
        raise KeysError(
            f"{where}: no client can send this key; use visible ASCII characters, with spaces only "
            "between them"
        )
    digest = hash_key(entry.key) if entry.key is not None else str(entry.key_sha256).lower()
    terms = {field: getattr(entry, field) for field in KeyTerms.__struct_fields__}
    document = {"name": entry.name, "sha256": digest, **terms}
    try:
        return msgspec.convert(document, ApiKey)
    except msgspec.ValidationError as error:
        problem = str(explain(error)).replace("`sha256`", "`key_sha256`")
    raise KeysError(f"{where}: {problem}")
