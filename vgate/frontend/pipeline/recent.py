"""Remembers, by their bodies, requests that the result cache has answered.

A program that asks again sends the same bytes. Decoding, rendering and tokenising them again would
take longer than everything else that a hit needs.
"""

from collections import OrderedDict
from typing import NamedTuple

from vgate.frontend.pipeline.job import EngineJob
from vgate.frontend.pipeline.port import GenerateRequest, Read
from vgate.frontend.text import TextModel
from vgate.wire.messages import ModelInfo

# A longer one would push out many others.
_MAX_BODY_BYTES = 16_384


class RecentRequest(NamedTuple):
    """A request, its job, what the job was made with, and the fields that have no effect."""

    request: GenerateRequest
    job: EngineJob
    info: ModelInfo
    ignored: tuple[str, ...] = ()

    def is_current(self, text: TextModel) -> bool:
        """Whether a model's text side still is the one that made the job."""
        return self.job.text is text and self.info is text.info


class RecentRequests:
    """The least recently used are dropped first.

    Args:
        max_entries: The most requests kept.
        max_bytes: The most bytes of all their bodies. A kept request takes several times its body.
    """

    def __init__(self, max_entries: int = 512, max_bytes: int = 1 << 20) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Read, str, bytes], RecentRequest] = OrderedDict()
        self._bytes = 0

    def find(self, read: Read, scope: str, body: bytes) -> RecentRequest | None:
        """Return the request that `read` made of an equal body in the same scope."""
        # Without any, as where nothing is cached, the body need not be hashed.
        if not self._kept or len(body) > _MAX_BODY_BYTES:
            return None
        found = self._kept.get((read, scope, body))
        if found is not None:
            self._kept.move_to_end((read, scope, body))
        return found

    def forget(self, text: TextModel) -> None:
        """Drop the requests whose jobs were made with a text side, which is large."""
        for key in [key for key, recent in self._kept.items() if recent.job.text is text]:
            del self._kept[key]
            self._bytes -= len(key[2])

    def keep(self, read: Read, scope: str, body: bytes, recent: RecentRequest) -> None:
        """Keep a request, in place of an earlier one of the same body, unless the body is long."""
        if len(body) > _MAX_BODY_BYTES:
            return
        if (read, scope, body) not in self._kept:
            self._bytes += len(body)
        self._kept[read, scope, body] = recent
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            (_, _, dropped), _ = self._kept.popitem(last=False)
            self._bytes -= len(dropped)
