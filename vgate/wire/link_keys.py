"""The key files of the links between hosts, in one directory: `vgate keys engine` makes them.

Keys are hexadecimal. An engine reads `engine.key`, its secret key, and `frontends.allow`: the
public keys of the frontends that may connect, one a line, with a name after it. A frontend reads
`frontend.key` and `engine.pub`, the engines' public key. So a host needs only two of the files.
"""

import fcntl
import os
import string
from contextlib import suppress
from pathlib import Path

from vgate.file_watcher import identity
from vgate.log import Log
from vgate.wire.curve import KEY_BYTES, ClientKeys, ServerKeys, new_secret, public_of

ENGINE_KEY, ENGINE_PUBLIC = "engine.key", "engine.pub"
FRONTEND_KEY, FRONTEND_PUBLIC = "frontend.key", "frontend.pub"
ALLOWED = "frontends.allow"

log = Log("vgate.wire")


class LinkKeyError(Exception):
    """A key file can't be used; the message says why and what to do."""


def client_keys(directory: Path, engine: str | None = None) -> ClientKeys:
    """Return a frontend's keys; `engine` is the engines' public key, if not that of the directory.

    Raises:
        LinkKeyError: A file is missing or broken.
    """
    server = bytes.fromhex(engine) if engine else read_key(directory / ENGINE_PUBLIC)
    return ClientKeys(read_key(directory / FRONTEND_KEY), server)


def server_keys(directory: Path) -> ServerKeys:
    """Return an engine's keys, whose list is read again when it changes.

    Raises:
        LinkKeyError: A file is missing or broken.
    """
    return ServerKeys(read_key(directory / ENGINE_KEY), AllowList(directory / ALLOWED).allows)


class AllowList:
    """The public keys of a list, as it is now. A list that is missing or broken changes nothing.

    Raises:
        LinkKeyError: It is missing or broken from the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = identity(path)
        self._keys = read_allowed(path)

    def allows(self, key: bytes) -> bool:
        """Whether a public key is on the list. Ask from one thread."""
        if (seen := identity(self._path)) != self._seen:
            self._seen = seen
            self._read_again()
        return key in self._keys

    def _read_again(self) -> None:
        try:
            self._keys = read_allowed(self._path)
        except LinkKeyError as error:
            log.error("the allowed keys stay as they were", reason=error)
        else:
            log.info("the allowed keys have changed", count=len(self._keys))


def read_key(path: Path) -> bytes:
    """Return the key in a file."""
    text = _text(path).strip()
    try:
        return key_of(text)
    except LinkKeyError as error:
        raise LinkKeyError(f"{path}: {error}") from None


def read_allowed(path: Path) -> frozenset[bytes]:
    """Return the public keys of a list; comments begin with #."""
    keys = set()
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            keys.add(key_of(words[0]))
        except LinkKeyError as error:
            raise LinkKeyError(f"{path}, line {number}: {error}") from None
    return frozenset(keys)


def make_keys(directory: Path) -> list[Path]:
    """Make what is missing of the files of both sides; return the new files.

    Raises:
        LinkKeyError: A file can't be written, or one that exists can't be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LinkKeyError(f"cannot make {directory}: {error.strerror or error}") from None
    try:
        # Two at once would leave the public key of one beside the secret key of the other.
        with suppress(OSError):  # NFS locks no directories
            fcntl.flock(lock, fcntl.LOCK_EX)
        return _make_missing(directory)
    finally:
        os.close(lock)


def _make_missing(directory: Path) -> list[Path]:
    made = []
    for secret_name, public_name in ((ENGINE_KEY, ENGINE_PUBLIC), (FRONTEND_KEY, FRONTEND_PUBLIC)):
        secret_path, public_path = directory / secret_name, directory / public_name
        if not secret_path.exists():
            _write(secret_path, new_secret().hex() + "\n")
            public_path.unlink(missing_ok=True)
            made.append(secret_path)
        if not public_path.exists():
            _write(public_path, public_of(read_key(secret_path)).hex() + "\n")
            made.append(public_path)
    if allow(directory / ALLOWED, read_key(directory / FRONTEND_PUBLIC), "frontend"):
        made.append(directory / ALLOWED)
    return made


def allow(path: Path, key: bytes, name: str) -> bool:
    """Add a public key to a list; return whether it was missing there."""
    text = _text(path) if path.exists() else "# Public keys of frontends that may connect\n"
    if path.exists() and key in read_allowed(path):
        return False
    if not text.endswith("\n"):
        text += "\n"
    _write(path, f"{text}{key.hex()} {name}\n")
    return True


def allow_only(path: Path, key: bytes, name: str) -> None:
    """Add a public key to a list under a name, in place of any other key that has it there.

    Under another name the list may have the same key, which stays when this one is replaced.
    """
    read_allowed(path)
    lines, wanted = _text(path).splitlines(), [key.hex(), name]
    kept = [line for line in lines if line.split()[1:] != [name]]
    if wanted not in map(str.split, lines) or len(kept) < len(lines) - 1:
        _write(path, "\n".join([*kept, " ".join(wanted), ""]))


def key_of(text: str) -> bytes:
    """Return the key that hexadecimal digits stand for."""
    digits = 2 * KEY_BYTES
    if len(text) != digits or not set(text) <= set(string.hexdigits):
        raise LinkKeyError(f"a key has {digits} hexadecimal digits")
    return bytes.fromhex(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        made = "`vgate keys engine` makes it; engine_link.keys names its directory"
        raise LinkKeyError(f"cannot read {path}: {why}; {made}") from None


def _write(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        raise LinkKeyError(f"cannot write {path}: {error.strerror or error}") from None
