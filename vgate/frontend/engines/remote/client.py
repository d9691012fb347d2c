"""The handle of an engine on another host: the link to it may break while it runs on.

What the engine still sends over a lost link reaches nobody: the socket is closed with all that it
holds, and another one has another identity. So a sequence that goes on elsewhere is never delivered
twice, whatever the network holds back and for how long.
"""

import asyncio

from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.handle import HandleOwner
from vgate.frontend.engines.sequence import Sequence
from vgate.log import Log
from vgate.wire.curve import SILENCE_MS, ClientKeys
from vgate.wire.kv_blocks import KvBlocks
from vgate.wire.messages import Answer, Status, Welcome
from vgate.wire.sockets import AsyncDealer

# Between two attempts to connect.
_RETRY_S = 0.5
# An engine whose loop hangs is silent for longer than a link until ZeroMQ gives it up: its own
# launcher ends it after 20 s at the earliest (`vgate.engine.patience`).
_HUNG_S = 15.0
_SILENT_S = 0.9 * SILENCE_MS / 1000
# A host that is reached says at once that nothing listens; of one that isn't, nothing is heard.
_REFUSED_S = 0.5
_LOG_EVERY = 120

log = Log("vgate.frontend")


class RemoteEngine(EngineClient):
    """A connection to an engine on another host; `keys` is None only without encryption."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        name: str,
        owner: HandleOwner,
        keys: ClientKeys | None,
    ) -> None:
        self._heard = self._tried = loop.time()
        self._failed = 0
        # When the engine started, and the sequences to which its death was counted, with how much.
        self._process = 0
        self._blamed: list[tuple[Sequence, int, int]] = []
        # Those to which it will be counted if it turns out that the engine ended.
        self._spared: list[tuple[Sequence, int, int]] = []
        super().__init__(loop, endpoint, name, owner, keys)

    def _on_batch(self, batch: list[bytes]) -> None:
        self._heard = self._loop.time()
        super()._on_batch(batch)

    def _on_other(self, message: Welcome | Answer | Status | KvBlocks) -> None:
        if isinstance(message, Welcome):
            self._on_welcome(message)
        super()._on_other(message)

    def _on_welcome(self, message: Welcome) -> None:
        """Take back the blame for a death, if it is the same process and only the link broke."""
        if self._process == message.model.created:
            for sequence, deaths, losses in self._blamed:
                sequence.deaths -= deaths
                sequence.losses -= losses
        self._process, self._blamed, self._failed = message.model.created, [], 0
        self._spared = []
        log.info("connected to an engine on another host", address=self.endpoint)

    def _lose(self, reason: str, *, refused: bool = False, cut: bool = False) -> None:
        if not (self.connected or refused):
            self._retry()
            return
        silent_s = self._loop.time() - self._heard
        cut = not refused and _SILENT_S <= silent_s < _HUNG_S
        before = [(s, s.deaths, s.losses, s.started) for s in self._running.values()]
        if cut:
            reason = "the link to the engine was cut"
        super()._lose(reason, refused=refused, cut=cut)
        self._blamed = [(s, s.deaths - d, s.losses - n) for s, d, n, _ in before]
        self._spared = [(s, int(not s.proved), 1) for s, _, _, began in before if cut and began]

    def _connect(self) -> AsyncDealer:
        self._tried = self._loop.time()
        return super()._connect()

    def _blame(self) -> None:
        """Count a death after all: the engine ended in a step that was as long as a cut takes."""
        for sequence, deaths, losses in self._spared:
            sequence.deaths += deaths
            sequence.losses += losses
        self._blamed = self._spared

    def _retry(self) -> None:
        """Try again to connect; nobody has to know."""
        self._dealer.close(drop=True)
        if self._spared and self._loop.time() - self._tried < _REFUSED_S:
            self._blame()
        # Later refusals tell nothing: they may be those of a host on the way.
        self._spared = []
        # The host may never come back, and what has ended needs its blame no more.
        now = self._loop.time()
        self._blamed = [blamed for blamed in self._blamed if blamed[0].deadline > now]
        if self._failed % _LOG_EVERY == 0:
            log.warning(
                "cannot connect to an engine on another host",
                address=self.endpoint,
                hint="does it run, and do engine.pub here and frontends.allow there fit?",
            )
        self._failed += 1
        self._loop.call_later(_RETRY_S, self._reconnect)
