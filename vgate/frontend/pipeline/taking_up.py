"""Streams that a client can take up again after it has lost its connection.

The engine keeps the tokens of such a stream and its request. The client may come back to any
worker, which prepares the request again and reads the kept tokens instead of generating. Its
encoder makes the same events of them, and leaves out those that the client has already.

One connection reads a stream. When another one claims it, the engine takes it from the earlier one.
It does so in the thread that also delivers the tokens, so both never read at once, and no token is
missed.
"""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from hashlib import blake2b

import msgspec

from vgate.errors import InvalidValueError, RateLimitedError, StreamNotFoundError
from vgate.frontend.answers import ResponseEncoder, TokenCounts
from vgate.frontend.answers.choice import Choice
from vgate.frontend.answers.resumable import FRAME
from vgate.frontend.engines.handle import EngineHandle
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.http import HttpRequest
from vgate.frontend.ids import Ids
from vgate.frontend.pipeline.job import EngineJob
from vgate.frontend.pipeline.port import GenerateRequest
from vgate.wire.kept import Keep

HEADER = "x-vgate-resumable"
_TRUE = frozenset({"1", "true", "yes", "on"})
_SEED_BYTES = 16
_NAME_BYTES = 16
# An engine that has just come back may get its streams from another worker in a moment.
_ATTEMPTS = 3
_PAUSE_S = 0.2
# The connection that the stream was taken from is still giving its slot and its tokens back.
_LIMIT_ATTEMPTS = 8
_FIRST_LIMIT_PAUSE_S = 0.01


class KeptRequest(msgspec.Struct, frozen=True, array_like=True):
    """What makes the same events of the same tokens; the engine keeps it.

    Attributes:
        stream: The stream's id: that of its first HTTP request.
        path: The endpoint.
        seed: Of the ids in the events.
        created: When its job was made, in Unix time.
        asked_id: The id that its client chose; "" if it chose none.
    """

    stream: str
    path: str
    body: bytes
    seed: bytes
    created: int
    asked_id: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeptRequest).decode


class Resumable(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that can be taken up, or is being taken up.

    Attributes:
        received: How many events of each choice the client has; empty if it has none.
        holders: The engines that have its sequences, by their index; empty if it is new.
        counted: How many of its tokens were counted for earlier connections; None if not even its
            prompt was, because the worker was killed.
    """

    request: KeptRequest
    names: list[bytes]
    seconds: float
    ids: Ids
    received: tuple[int, ...] = ()
    holders: dict[int, EngineHandle] = {}
    counted: int | None = 0

    def rest_of(self, counts: TokenCounts) -> TokenCounts:
        """Return what of a whole answer was not counted for earlier connections."""
        if self.counted is None:
            return counts
        # Reasoning comes first.
        completion, reasoning = counts.completion - self.counted, counts.reasoning - self.counted
        return TokenCounts(0, max(0, completion), reasoning=max(0, reasoning))

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.request.body

    def encoder_of(self, request: GenerateRequest, job: EngineJob) -> ResponseEncoder:
        """Return the encoder of its answer."""
        with self.ids.of(FRAME):
            return request.encoder_of(job)

    def make_choice(self, job: EngineJob, sequence: Sequence) -> Choice:
        """Return the choice that reads one of its sequences."""

        def new_call_id(make: Callable[[], str]) -> str:
            with self.ids.of(sequence.index):
                return make()

        decoding = msgspec.structs.replace(
            job.decoding, new_call_id=partial(new_call_id, job.decoding.new_call_id)
        )
        return msgspec.structs.replace(job, decoding=decoding).make_choice(sequence)

    def keep(self, index: int) -> Keep:
        """Return how the engine keeps, or finds, one of its sequences."""
        request = b"" if index else _encode(self.request)
        return Keep(self.names, index, self.seconds, request, bool(self.holders))

    def positions(self, choices: int) -> list[int]:
        """Return how many events of each choice the client has.

        Raises:
            VGateError: The stream is not that one, or not all of it is there.
        """
        if self.holders and any(index not in self.holders for index in range(choices)):
            raise not_found()
        if self.received and len(self.received) != choices:
            message = f"`Last-Event-ID` must have {choices} numbers for this stream"
            raise InvalidValueError(message, param="Last-Event-ID")
        return list(self.received) or [0] * choices


def offered(http: HttpRequest, job: EngineJob, seconds: float) -> Resumable | None:
    """Return how a new stream can be taken up; None if its client hasn't asked for that."""
    if not seconds or (http.header(HEADER) or "").lower() not in _TRUE:
        return None
    seed = os.urandom(_SEED_BYTES)
    request = KeptRequest(http.id, http.path, http.read_body, seed, job.created, job.asked_id)
    scope = http.admission.scope
    # Its client knows the response's id in the Responses API.
    names = [_name(scope, http.id), _name(scope, Ids(seed).make(FRAME, ""))]
    http.set_header(HEADER, f"{seconds:g}")
    return Resumable(request=request, names=names, seconds=seconds, ids=Ids(seed))


async def claimed(
    http: HttpRequest, models: ModelRegistry, stream: str, seconds: float
) -> Resumable:
    """Take a stream from its connection, if there still is one, for this request to go on with.

    Raises:
        StreamNotFoundError: No engine has it, for this request's key.
    """
    name = _name(http.admission.scope, stream)
    gives_up, left = time.monotonic() + seconds, _ATTEMPTS
    while True:
        pools = await asyncio.gather(*(model.engine.claim(name) for model in models))
        found = [pair for pool in pools for pair in pool]
        request = next((claimed.request for _, claimed in found if claimed.request), None)
        if request is not None:
            break
        # An engine that has died may have had it, and another worker has it go on in the next one.
        if all(model.engine.connected or not model.comes_back for model in models):
            left -= 1
        if not left or time.monotonic() > gives_up:
            raise not_found()
        await asyncio.sleep(_PAUSE_S)
    kept = _decode(request)
    first = _name(http.admission.scope, kept.stream)
    # An engine whose link was cut may have an old one of a sequence that went on in another, and
    # was read there.
    holders: dict[int, tuple[int, EngineHandle]] = {}
    for handle, claimed in found:
        for index, count in claimed.counted.items():
            if index not in holders or count > holders[index][0]:
                holders[index] = count, handle
    counted = [count for count, _ in holders.values() if count >= 0]
    return Resumable(
        request=kept,
        names=[first, _name(http.admission.scope, Ids(kept.seed).make(FRAME, ""))],
        seconds=seconds,
        ids=Ids(kept.seed),
        holders={index: handle for index, (_, handle) in holders.items()},
        counted=sum(counted) if counted else None,
    )


async def reserve_rest(http: HttpRequest, tokens: int) -> None:
    """Reserve the tokens that a stream may still get, when its earlier connection is done.

    Raises:
        RateLimitedError: The key's limits don't allow them.
    """
    admission, pause_s = http.admission, _FIRST_LIMIT_PAUSE_S
    if not admission.is_limited:
        return
    for attempt in range(_LIMIT_ATTEMPTS):
        await asyncio.sleep(pause_s)
        pause_s *= 2
        try:
            await admission.reserve(tokens)
        except RateLimitedError:
            admission.grant = None
            if attempt == _LIMIT_ATTEMPTS - 1:
                raise
        else:
            return


def not_found() -> StreamNotFoundError:
    """Return the error of a stream that is not, or no longer, there."""
    return StreamNotFoundError(
        "there is no such stream to take up for this API key: it was not opened with "
        "`X-VGate-Resumable: true`, or is kept no longer (server.replay_s); send the request again "
        "without `Last-Event-ID`"
    )


def _name(scope: str, stream: str) -> bytes:
    return blake2b(f"{scope}\0{stream}".encode(), digest_size=_NAME_BYTES).digest()
