"""The engines that joined a running server, and the invitations to do so, in a file.

The server's frontends edit and follow it, and a restart finds it again.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.config.links import PublicKey, TcpAddress
from vgate.config.schema import Config
from vgate.config.section import NonEmptyStr, Section

_MODE = 0o600
# Others are forgotten first.
_MOST_INVITATIONS = 100


class JoinedEngine(Section, frozen=True, kw_only=True):
    """A host with engines of a model.

    Attributes:
        name: By which it is removed.
        addresses: Of its engines.
        model: The first of the model's served names.
        joined: Unix time, in seconds.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    addresses: Annotated[list[TcpAddress], Meta(min_length=1, max_length=64)]
    model: NonEmptyStr
    public_key: PublicKey
    joined: float = 0.0


class Invitation(Section, frozen=True):
    """That one host may join with a token."""

    token_sha256: str
    model: str
    expires_at: float


class _Document(Section, frozen=True):
    engines: list[JoinedEngine] = []
    invitations: list[Invitation] = []


class JoinError(Exception):
    """This can't be done; the message says why and what to do."""


class JoinedFile:
    """The file of the server on a port. Its methods wait for the disk, and for each other.

    Every method raises `JoinError` if the file can't be read or written.
    """

    def __init__(self, config: Config) -> None:
        self.path = config.server.state_path / f"engines-{config.server.port}.json"

    def engines(self) -> list[JoinedEngine]:
        """Return the engines that have joined."""
        return self._read().engines

    def invite(self, model: str, for_s: float) -> str:
        """Return a token with which one host may join within so many seconds."""
        token = secrets.token_hex(32)
        invitation = Invitation(
            token_sha256=token_hash(token), model=model, expires_at=time.time() + for_s
        )
        with self._edit() as (_, invitations):
            invitations.append(invitation)
            del invitations[:-_MOST_INVITATIONS]
        return token

    def invitation(self, token: str) -> Invitation:
        """Return the invitation that a token is for."""
        return _valid(self._read().invitations, token)

    def join(self, token: str, engine: JoinedEngine) -> None:
        """Add a host's engines. A token counts once.

        They replace earlier ones of its name, and what had one of its addresses with another key.
        """
        with self._edit() as (engines, invitations):
            invitations.remove(_valid(invitations, token))
            taken = set(engine.addresses)
            kept = [
                known
                for known in engines
                if known.name != engine.name and taken.isdisjoint(known.addresses)
            ]
            engines[:] = [*kept, engine]

    def remove(self, name: str) -> None:
        """Remove a host's engines."""
        with self._edit() as (engines, _):
            kept = [known for known in engines if known.name != name]
            if len(kept) == len(engines):
                names = ", ".join(known.name for known in engines) or "none"
                raise JoinError(f"no host `{name}` has joined; there are: {names}")
            engines[:] = kept

    def _read(self) -> _Document:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Document)
        except FileNotFoundError:
            return _Document()
        except (OSError, msgspec.DecodeError) as error:
            raise JoinError(f"cannot read {self.path}: {error}") from None

    @contextmanager
    def _edit(self) -> Iterator[tuple[list[JoinedEngine], list[Invitation]]]:
        """Yield what is there to be changed, and write it afterwards, under the lock."""
        path = self.path.with_name(f".{self.path.name}.lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                document, now = self._read(), time.time()
                engines = document.engines
                invitations = [each for each in document.invitations if each.expires_at > now]
                yield engines, invitations
                self._write(engines, invitations)
        except OSError as error:
            raise JoinError(f"cannot write {self.path}: {error.strerror or error}") from None

    def _write(self, engines: list[JoinedEngine], invitations: list[Invitation]) -> None:
        content = msgspec.json.encode(_Document(engines=engines, invitations=invitations))
        try:
            # One host that can't be read again would take all others with it.
            msgspec.json.decode(content, type=_Document)
        except msgspec.ValidationError as error:
            raise JoinError(f"this host can't be kept: {error}") from None
        write_private(self.path, content)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all, by one that only this user can read."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "wb") as file:
        file.write(content)
    draft.replace(path)


def _valid(invitations: list[Invitation], token: str) -> Invitation:
    wanted, now = token_hash(token), time.time()
    for invitation in invitations:
        if secrets.compare_digest(invitation.token_sha256, wanted) and invitation.expires_at > now:
            return invitation
    raise JoinError(
        "this token is unknown, used or expired: `vgate engines invite` on the server's machine "
        "makes another"
    )


def token_hash(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
