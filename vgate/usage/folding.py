"""Folds counts into the ledger, on a thread of the launcher: the disk may be slow."""

import threading
from pathlib import Path

from vgate.log import Log
from vgate.usage.ledger import Folder, LedgerError

_EVERY_S = 2.0
# A disk that doesn't answer must not keep the launcher from ending.
_LAST_S = 5.0

log = Log("vgate.launcher")


class Folding:
    """Folds from `start` to `close`.

    Attributes:
        problem: Why it can't be done now; empty if it can. The counts wait in their files.
    """

    def __init__(self, state: Path) -> None:
        self.problem = ""
        self._folder = Folder(state)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin with what an earlier instance has left."""
        self._thread.start()

    def close(self) -> None:
        """Fold once more, when the frontends have ended."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_LAST_S)

    def _run(self) -> None:
        ends = False
        while not ends:
            ends = self._end.is_set()
            self._fold()
            self._end.wait(_EVERY_S)

    def _fold(self) -> None:
        try:
            self._folder.fold()
        except LedgerError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001 - the thread must not end
            self._report(f"{type(error).__name__}: {error}")
        else:
            if self.problem:
                log.info("use is written to the ledger again")
            self.problem = ""

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.error("use can't be written to the ledger, and waits", reason=problem)
        self.problem = problem
