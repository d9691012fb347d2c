"""Requests whose answers are in the result cache, by their bodies. Pure.

A body that comes again byte for byte is the same request, so it need not be decoded, rendered and
tokenised again to find its answer: that costs several times what the rest of a hit does.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from vgate.wire.messages import ModelInfo

if TYPE_CHECKING:
    from vgate.frontend.serving import Dialect, Job

_Request = TypeVar("_Request")

# Together at most 8 MiB of bodies in a worker.
_MAX_BODY_BYTES = 16 * 1024
_MAX_ENTRIES = 512


class Prepared(msgspec.Struct, Generic[_Request], frozen=True):
    """A request and what was made of it, with the model as it was told to be at that time."""

    request: _Request
    job: Job
    dialect: Dialect
    info: ModelInfo


class RecentRequests(Generic[_Request]):
    """The requests of one endpoint, least recently used out first."""

    def __init__(self) -> None:
        self._prepared: OrderedDict[bytes, Prepared[_Request]] = OrderedDict()

    def get(self, body: bytes) -> Prepared[_Request] | None:
        """Return what was made of a body, unless its model has changed since."""
        found = self._prepared.get(body)
        if found is None:
            return None
        job = found.job
        # An engine that started anew has told of its model anew, and may have told something else.
        if job.model.text is not job.text or job.text.info is not found.info:
            del self._prepared[body]
            return None
        self._prepared.move_to_end(body)
        return found

    def put(self, body: bytes, request: _Request, job: Job, dialect: Dialect) -> None:
        """Keep what was made of a body."""
        if len(body) > _MAX_BODY_BYTES:
            return
        self._prepared[body] = Prepared(request, job, dialect, job.text.info)
        if len(self._prepared) > _MAX_ENTRIES:
            self._prepared.popitem(last=False)
