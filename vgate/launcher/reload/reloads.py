"""Reads the configuration again when it is asked to, and has new frontends serve with it.

A certificate that was renewed is taken over in the same way, without reading the configuration.
"""

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from vgate import log as logs
from vgate.config import Changes, Config, ConfigError, Runtime, changes
from vgate.config.load import check_aliases, load_file
from vgate.file_watcher import FileWatcher
from vgate.launcher.frontends import Frontends, HandOverError
from vgate.launcher.listeners import warn_if_open
from vgate.launcher.prepared import prepared
from vgate.launcher.residency.memory import attainable, carried_over
from vgate.log import Log
from vgate.wire.control import Reloaded

_LOOK_S = 1.0

log = Log("vgate.launcher")


def read_again() -> tuple[Config, str]:
    """Return the configuration as the start would, and its file's name if nothing is in that.

    Raises:
        ConfigError: It can't be used.
    """
    config, empty = load_file(os.environ)
    return prepared(config), empty


class Reloads:
    """Takes requests to reload, and carries out one after the other.

    Attributes:
        runtime: The settings in force.
    """

    def __init__(
        self,
        runtime: Runtime,
        frontends: Frontends,
        answer: Callable[[bytes, Reloaded], None],
        read: Callable[[], tuple[Config, str]] = read_again,
    ) -> None:
        self.runtime = runtime
        self._frontends = frontends
        self._answer = answer
        self._read = read
        # Files are read beside the loop. None stands for a request that wants no answer.
        self._reader = ThreadPoolExecutor(1, "reload")
        self._reading: Future[tuple[Config, str]] | None = None
        self._asked: list[bytes | None] = []
        self._answering: list[bytes | None] = []
        self._refusal: str | None = None
        self._watch_certificates()

    def ask(self, peer: bytes | None = None) -> None:
        """Read the configuration again, and send `peer` the outcome."""
        self._asked.append(peer)
        if self._refusal is not None:
            self.refuse(self._refusal)

    def advance(self) -> None:
        """Go on with what was asked for. Call it several times a second."""
        if self._refusal is not None:
            return
        if self._reading is not None:
            if self._reading.done():
                reading, self._reading = self._reading, None
                self._take(reading)
        elif not self._frontends.handing_over:
            if self._asked:
                # A request that comes during a reload may know of a later change.
                self._answering, self._asked = self._asked, []
                self._watch_certificates()
                self._reading = self._reader.submit(self._wanted)
            elif self._certificate_changed():
                self._reading = self._reader.submit(self._check_certificate)

    def _wanted(self) -> tuple[Config, str]:
        config, empty = self._read()
        return attainable(config, self.runtime.backend), empty

    def refuse(self, reason: str) -> None:
        """Answer all that wait and those that come, as nothing will come of it."""
        self._refusal = reason
        self._answering += self._asked
        self._asked = []
        self._tell(Reloaded(False, reason))
        self._reader.shutdown(wait=False)

    def _take(self, reading: Future[tuple[Config, str]]) -> None:
        before = self.runtime
        try:
            config, empty = reading.result()
            wanted = carried_over(before.config, config)
            found = changes(before.config, wanted)
            if empty and (found.applied or found.waiting):
                # The defaults ask for no key, and a program may empty a file before it writes.
                raise ConfigError(f"{empty} is empty; write {{}} into it to have the defaults")
            check_aliases(found.config)
            runtime = msgspec.structs.replace(before, config=found.config)
            runtime.write()
            self._frontends.replace(runtime, lambda problem: self._end(before, found, problem))
            self.runtime = runtime
        except (ConfigError, HandOverError) as error:
            self._fail(before, str(error))
        except OSError as error:
            self._fail(before, f"{error.filename or before.run_dir}: {error.strerror}")
        except Exception as error:
            log.exception("reading the configuration failed")
            self._fail(before, f"internal error: {error!r}")

    def _end(self, before: Runtime, found: Changes, problem: str | None) -> None:
        if problem is not None:
            self._fail(before, problem)
            return
        settings = found.config.logging
        logs.configure("launcher", level=settings.level, json_format=settings.json_format)
        self._watch_certificates()
        log.info("new frontends serve", changed=found.applied, need_restart=found.waiting)
        names = [("changed", found.applied), ("needs a restart", found.waiting)]
        told = "".join(f"; {what}: {', '.join(which)}" for what, which in names if which)
        if "security.enabled" in found.applied and warn_if_open(found.config):
            told += "; EVERYBODY who reaches it may use it now"
        count = len(self._frontends.serving)
        new = f"{count} new frontends serve" if count > 1 else "a new frontend serves"
        self._tell(Reloaded(True, new + told))

    def _fail(self, before: Runtime, reason: str) -> None:
        self.runtime = before
        with contextlib.suppress(OSError):  # the disk is full, so nothing was written
            before.write()
        log.error("nothing is changed: the reload failed", reason=reason)
        self._tell(Reloaded(False, f"nothing is changed: {reason}"))

    def _tell(self, outcome: Reloaded) -> None:
        answering, self._answering = self._answering, []
        for peer in answering:
            if peer is not None:
                self._answer(peer, outcome)

    def _watch_certificates(self) -> None:
        tls = self.runtime.config.server.tls
        paths = (tls.certificate, tls.key, tls.client_ca) if tls.reload else ()
        self._watchers = [FileWatcher(Path(path)) for path in paths if path is not None]
        self._next_look = time.monotonic() + _LOOK_S

    def _certificate_changed(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_S
        return any([watcher.changed() for watcher in self._watchers])  # noqa: C419 - each must look

    def _check_certificate(self) -> tuple[Config, str]:
        from vgate.config.tls import TlsError, check_tls

        config = self.runtime.config
        try:
            expires = check_tls(config.server.tls)
        except TlsError as error:
            raise ConfigError(f"the certificate can't be used: {error}") from None
        log.info("the certificate has changed", expires=expires.isoformat())
        return config, ""
