"""Fetches a model from the Hub into its cache, and tells how far it is."""

import fcntl
import glob
import io
import logging
import queue
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vgate.config.models.names import cached_snapshot, hub_endpoint
from vgate.hub.errors import HubError, explained, status_of
from vgate.hub.files import HubFile, Place, has_model
from vgate.hub.listing import listed
from vgate.hub.transfer import Stopped, Waiting, transfer

_REPORT_EVERY_S = _LOOK_EVERY_S = 0.5
_GB, _MB = 1e9, 1e6
_AT_ONCE = 4
# The Hub gives larger ones only by a protocol of its own, which the library knows
# (huggingface_hub/constants.py, MAX_HTTP_DOWNLOAD_SIZE).
_MOST_BYTES = 50_000_000_000

# How many bytes are there, and of how many.
Report = Callable[[int, int], None]
Say = Callable[[str], None]


def fetch(name: str, revision: str | None, report: Report, say: Say) -> Path:
    """Return the directory of a model of the Hub; download what is not in the cache.

    Other processes that fetch it too wait. What an interrupted download has left is used.

    Args:
        name: OWNER/NAME.
        revision: A branch, tag or commit; None for the main branch.
        report: Is told now and then how far it is.
        say: Is told what else happens, in words.

    Raises:
        HubError: It can't be fetched, or the disk has no room for it.
    """
    try:
        return _fetch(name, revision, report, say)
    except HubError as error:
        what = f"cannot fetch the model {name}: {error}"
        raise HubError(what, permanent=error.permanent) from None
    except Exception as error:
        raise explained(error, name, revision) from error


def _fetch(name: str, revision: str | None, report: Report, say: Say) -> Path:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what matters is said here
    cached = cached_snapshot(name, revision)
    if cached is not None and not has_model(cached):
        cached = None  # others have fetched its tokenizer, or a download was interrupted
    try:
        commit, files = listed(name, revision, say, patient=cached is None)
    except Exception as error:
        if cached is None:
            raise
        if status_of(error):
            say(f"{hub_endpoint()} answered {status_of(error)}: what is in the cache is taken")
        return cached
    place = Place(name, commit)
    if any(not place.has(file) for file in files):
        with _lock(place, files, report, say):
            missing = [file for file in files if not place.has(file)]
            if missing:
                progress = _Progress(missing, report)
                _download(name, place, missing, progress, say)
                if huge := [file for file in missing if _is_huge(file)]:
                    _from_library(name, place, huge, progress)
                progress.end()
    place.name_commit(revision or "main")
    return place.snapshot


@contextmanager
def _lock(place: Place, files: Sequence[HubFile], report: Report, say: Say) -> Iterator[None]:
    """Let one process download a model at a time; the others report how far it is."""
    path = place.root.parent / ".locks" / place.root.name / "vgate.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(file.size or 0 for file in files)
    waits = False
    with path.open("w") as lock:
        while not _taken(lock):
            if not waits:
                say("waiting for another process that downloads it")
                waits = True
            report(total - sum(_to_come(place, file) for file in files), total)
            time.sleep(_LOOK_EVERY_S)
        yield


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, on which two download it twice
        return True
    return True


def _download(
    name: str, place: Place, missing: Sequence[HubFile], progress: "_Progress", say: Say
) -> None:
    """Get all files but the huge ones; each may have a part on disk already."""
    usual = [file for file in missing if not _is_huge(file)]
    _check_room(place, missing)
    stop, errors = threading.Event(), queue.SimpleQueue[Exception | None]()
    left = iter(sorted(usual, key=lambda file: -(file.size or 0)))
    taking = threading.Lock()

    def work() -> None:
        try:
            while not stop.is_set():
                with taking:
                    file = next(left, None)
                if file is None:
                    break
                path = urllib.parse.quote(f"{place.snapshot.name}/{file.name}")
                url = f"{hub_endpoint()}/{name}/resolve/{path}"
                _get(place, file, url, progress, Waiting(stop, say), stop)
            errors.put(None)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            errors.put(error)

    workers = min(_AT_ONCE, len(usual))
    for _ in range(workers):
        # As daemons they end with the process: what has come is on disk at any time.
        threading.Thread(target=work, daemon=True).start()
    for _ in range(workers):
        error = errors.get()
        if error is not None and not isinstance(error, Stopped):
            stop.set()
            raise error


def _get(
    place: Place, file: HubFile, url: str, progress: "_Progress", waiting: Waiting, stop: Any
) -> None:
    if not place.blob(file).exists():
        transfer(file, url, place.unfinished(file), progress.add, waiting, stop)
        place.unfinished(file).replace(place.blob(file))
    place.link(file)


def _is_huge(file: HubFile) -> bool:
    return file.checksum == "SHA-256" and file.size is not None and file.size > _MOST_BYTES


def _from_library(name: str, place: Place, files: Sequence[HubFile], progress: "_Progress") -> None:
    """Have the library get files, to which it gives the names that the server tells."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        name,
        revision=place.snapshot.name,
        cache_dir=place.root.parent,
        endpoint=hub_endpoint(),
        allow_patterns=[glob.escape(file.name) for file in files],
        tqdm_class=_bars(progress),
    )


def _bars(progress: "_Progress") -> Any:
    """Return a class of progress bars that shows none, but tells how far it is."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options["file"] = io.StringIO()
            super().__init__(*arguments, **options)

        def update(self, n: float | None = 1) -> Any:
            # Of the bars in bytes, one counts what comes over the network, which may be less.
            if self.unit == "B" and self.desc.startswith("Reconstruct"):
                progress.add(int(n or 0), int(self.total or 0))
            return super().update(n)

    return Bar


class _Progress:
    """Reports the bytes that are there, at most every `_REPORT_EVERY_S` and at the end."""

    def __init__(self, files: Sequence[HubFile], report: Report) -> None:
        self._total = sum(file.size or 0 for file in files)
        self._done = 0
        self._report = report
        self._reported_at = 0.0
        self._lock = threading.Lock()

    def add(self, count: int, total: int = 0) -> None:
        with self._lock:
            self._done += count
            self._total = max(self._total, self._done, total)
            if (now := time.monotonic()) - self._reported_at >= _REPORT_EVERY_S:
                self._reported_at = now
                self._report(self._done, self._total)

    def end(self) -> None:
        self._report(self._done, self._done)


def _check_room(place: Place, missing: Sequence[HubFile]) -> None:
    """Raise `HubError` if the cache's disk has no room for what is to come."""
    cache = place.root.parent
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    to_come = sum(_to_come(place, file) for file in missing)
    if free < to_come:
        raise HubError(
            f"{size_text(to_come)} are missing, and {cache} has room for {size_text(free)}: make "
            "room, or set HF_HOME to a directory elsewhere",
            permanent=True,
        )


def _to_come(place: Place, file: HubFile) -> int:
    size = file.size or 0
    if place.has(file) or place.blob(file).exists():
        return 0
    try:
        return max(0, size - place.unfinished(file).stat().st_size)
    except OSError:
        return size


def size_text(count: float) -> str:
    """Return such as "5.6 GB" or "3.0 MB"."""
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / _MB:.1f} MB"
