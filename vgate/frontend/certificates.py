"""Follows the files of ``server.tls``, so that a renewed certificate needs no restart."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from vgate.config.schema import Tls
from vgate.config.tls import TlsError, check_tls
from vgate.file_watcher import FileWatcher
from vgate.log import Log

_POLL_S = 1.0

log = Log("vgate.frontend")


class Certificates:
    """Calls `reload` when the files have changed, or on SIGHUP, if they can be used."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tls: Tls, reload: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._reload = reload
        paths = (tls.certificate, tls.key, tls.client_ca)
        self._watchers = [FileWatcher(Path(path)) for path in paths if path is not None]
        loop.add_signal_handler(signal.SIGHUP, self._use)
        if tls.reload:
            loop.call_later(_POLL_S, self._look)

    def _look(self) -> None:
        self._loop.call_later(_POLL_S, self._look)
        if any([watcher.changed() for watcher in self._watchers]):  # noqa: C419 - each must look
            self._use()

    def _use(self) -> None:
        try:
            expires = check_tls(self._tls)
        except TlsError as error:
            log.error("the certificate can't be used; keeping the current one", reason=error)
        else:
            log.info("certificate reloaded", expires=expires.isoformat())
            self._reload()
