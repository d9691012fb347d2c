"""Gets one file: goes on where an earlier try ended, and checks what has come."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from vgate.config.models.names import hub_endpoint
from vgate.hub.errors import HubError, is_of_the_disk, status_of
from vgate.hub.files import HubFile

_PIECE_BYTES = 1 << 17
# Of a file whose size nobody has told: it might never end. Servers tell that of large files.
_MOST_UNTOLD_BYTES = 1_000_000_000
# So many tries in a row that bring nothing end it.
_MOST_TRIES = 6
_SAID_AFTER = 2
_FIRST_WAIT_S, _MOST_WAIT_S = 1.0, 30.0
_LONGEST_ASKED_S = 600.0
_WORTH_ANOTHER_TRY = frozenset({408, 416, 425, 429})

# Tells how many more bytes are there; negative if they have to come again.
Tell = Callable[[int], None]


class Stopped(Exception):  # noqa: N818 - no error: somebody else's
    """Another file can't be had, so this one isn't wanted either."""


class Waiting:
    """How long to wait between tries, until one brings something; it ends with `stop`."""

    def __init__(self, stop: threading.Event, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._failed = 0

    def reset(self) -> None:
        """Something has come."""
        self._failed = 0

    def wait(self, error: Exception) -> None:
        """Wait because of an error, or raise it: it is permanent, or there were too many."""
        self._failed += 1
        status = status_of(error)
        refused = 0 < status < HTTPStatus.INTERNAL_SERVER_ERROR
        if refused and status not in _WORTH_ANOTHER_TRY:
            raise error
        if is_of_the_disk(error) or self._failed >= _MOST_TRIES:
            raise error
        wait_s = min(_FIRST_WAIT_S * 2 ** (self._failed - 1), _MOST_WAIT_S)
        if (asked_s := _retry_after(error)) is not None:
            wait_s = asked_s
            if wait_s > 1:
                self._say(f"asked to wait {wait_s:.0f} s")
        elif self._failed == _SAID_AFTER:
            why = f"{hub_endpoint()} answered {status}" if status else str(error)
            self._say(f"{why}; trying again")
        if self._stop.wait(wait_s):
            raise Stopped


def _retry_after(error: Exception) -> float | None:
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    value = headers.get("Retry-After", "")
    # Otherwise it is a date, which nobody sends here.
    return min(float(value), _LONGEST_ASKED_S) if value.isdecimal() else None


class _Content:
    """The part of a file that is on disk, and its digest."""

    def __init__(self, file: HubFile, path: Path, tell: Tell, stop: threading.Event) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.size = 0
        self._of = file
        self._digest = self._new_digest()
        self._tell = tell
        self._stop = stop
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
            self._count(piece)

    def add(self, piece: bytes) -> None:
        written = 0
        while written < len(piece):  # a full disk may take a part
            written += self._file.write(memoryview(piece)[written:]) or 0
        self._count(piece)

    def restart(self) -> None:
        self._file.truncate(0)
        self._tell(-self.size)
        self.size = 0
        self._digest = self._new_digest()

    def is_right(self) -> bool:
        """Whether the checksum is the file's, if that is known."""
        return self._of.checksum is None or self._digest.hexdigest() == self._of.blob

    def free_bytes(self) -> int:
        """Return what the disk has room for."""
        return shutil.disk_usage(self._file.name).free

    def close(self) -> None:
        self._file.close()

    def _new_digest(self) -> Any:
        if self._of.checksum == "git hash":
            return hashlib.sha1(b"blob %d\0" % (self._of.size or 0), usedforsecurity=False)
        return hashlib.sha256()

    def _count(self, piece: bytes) -> None:
        if self._stop.is_set():
            raise Stopped
        self._digest.update(piece)
        self.size += len(piece)
        self._tell(len(piece))


def transfer(file: HubFile, url: str, path: Path, tell: Tell, waiting: Waiting, stop: Any) -> None:
    """Get a file, of which `path` may have a part already, and check its checksum.

    Raises:
        HubError: It has come wrong twice.
        Exception: It can't be had, or not written; what has come is kept.
    """
    content = _Content(file, path, tell, stop)
    try:
        for _ in range(2):
            _complete(content, file, url, waiting)
            if content.is_right():
                return
            content.restart()
    finally:
        content.close()
    raise HubError(
        f"{file.name} came damaged twice (its {file.checksum} is not {file.blob}): try again, or "
        "set HF_ENDPOINT to another mirror"
    )


def _complete(content: _Content, file: HubFile, url: str, waiting: Waiting) -> None:
    size = file.size
    while content.size != size:
        if size is not None and content.size > size:
            content.restart()
        before = content.size
        try:
            with _answer(content, url) as answer:
                size = _told(content, file, answer) if file.size is None else size
                for piece in answer.iter_bytes(_PIECE_BYTES):
                    _check_size(file, content.size + len(piece), size)
                    content.add(piece)
                    waiting.reset()
            if size is None:  # it was sent in pieces, and the last one has come
                return
            if content.size == before != size:
                raise ConnectionError(f"nothing comes of {file.name}")
        except (Stopped, HubError):
            raise
        except Exception as error:  # noqa: BLE001 - the library's network errors have no name of ours
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                content.restart()
            waiting.wait(error)


def _check_size(file: HubFile, size: int, whole: int | None) -> None:
    """Raise HubError if more comes than there is: it might never end."""
    if size <= (_MOST_UNTOLD_BYTES if whole is None else whole):
        return
    problem = "is longer than the list of the files says"
    if whole is None:
        problem = "has more than 1 GB, and the server tells no size of it"
    raise HubError(f"{file.name} {problem}: try again, or set HF_ENDPOINT to another mirror")


def _told(content: _Content, file: HubFile, answer: Any) -> int | None:
    """Return the size that an answer tells, for which there must be room: no list had it before."""
    size = _size_told(answer)
    if size is not None and size - content.size > (free := content.free_bytes()):
        raise HubError(
            f"{file.name} has {size:,} bytes, and the disk has room for {free:,}: make room, or "
            "set HF_HOME to a directory elsewhere",
            permanent=True,
        )
    return size


@contextmanager
def _answer(content: _Content, url: str) -> Iterator[Any]:
    """Ask for what is missing of a file, or for all of it."""
    from huggingface_hub import constants
    from huggingface_hub import utils as typed

    utils: Any = typed  # names some of its functions as private
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if content.size:
        headers["Range"] = f"bytes={content.size}-"
    limit_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with utils.get_session().stream("GET", url, headers=headers, timeout=limit_s) as answer:
        utils.hf_raise_for_status(answer)
        if content.size and answer.status_code != HTTPStatus.PARTIAL_CONTENT:
            content.restart()
        yield answer


def _size_told(answer: Any) -> int | None:
    """Return the size of a whole file, if the answer with it or with its end says it."""
    told = answer.headers.get("Content-Length", "")
    if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
        told = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(told) if told.isdecimal() else None
