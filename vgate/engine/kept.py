"""The sequences that are kept for a client that has lost its connection and may come back. Pure.

A kept sequence has at most one reader. The next one to claim it takes it over, and the engine's
only thread decides who that is, so a token reaches one connection. Without a reader a sequence goes
on, and its output stays, for as long as its frontend asked for.
"""

import math
from collections.abc import Sequence

import msgspec

from vgate.engine.delivery import Subscriptions, catch_up
from vgate.engine.request import Request, RequestError, Subscriber
from vgate.wire.kept import Claim, Claimed, Keep
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import Delta, Embed, Generate

# Of the output and the requests of sequences that have ended. Without them the oldest are dropped.
_MAX_BYTES = 64 << 20
# Objects of Python: a token's number, and a position without its log probabilities.
_TOKEN_BYTES = 40
_POSITION_BYTES = 150

_GONE = "this stream is no longer kept; send the request again"
_TAKEN = "another connection has taken this stream up, and gets the rest of it"

# Whom the engine tells why it gets no more.
Notices = list[tuple[Subscriber, RequestError]]


class KeptSequence(msgspec.Struct, eq=False):
    """One sequence of a stream.

    Attributes:
        reader: Who gets its output; None while its client is away.
        counted: How many of its tokens were generated while it had a reader that has counted them;
            -1 if none has counted anything, because it was killed.
        until: When it is dropped, if it has no reader, in monotonic seconds.
        ended: It generates nothing more: it has finished, or its reader has stopped it, perhaps
            as it found a stop string.
    """

    request: Request
    keep: Keep
    reader: Subscriber | None
    counted: int = -1
    until: float = math.inf
    ended: bool = False
    size_bytes: int = 0


class KeptStreams:
    """All kept sequences of an engine.

    Args:
        subscriptions: Where readers subscribe.
        max_bytes: The most that sequences take that have ended, and what frontends need to read
            them.
    """

    def __init__(self, subscriptions: Subscriptions, max_bytes: int = _MAX_BYTES) -> None:
        self._subscriptions = subscriptions
        self._max_bytes = max_bytes
        self._bytes = 0
        # By the stream's names; the sequences by their indexes.
        self._streams: dict[bytes, dict[int, KeptSequence]] = {}
        self._by_request: dict[str, list[KeptSequence]] = {}
        self._by_reader: dict[Subscriber, KeptSequence] = {}
        # Of sequences that are kept no more, as a new stream has their name.
        self._replaced: list[Request] = []

    def add(self, message: Generate | Embed, request: Request, reader: Subscriber) -> None:
        """Keep a new sequence that asks for it, in place of an earlier one of its name."""
        keep = message.keep if isinstance(message, Generate) else None
        if keep is None or not _is_whole(request):
            return
        earlier = [old for name in keep.names if (old := self._find(name, keep.index))]
        self._drop(earlier)
        self._replaced += [old.request for old in earlier if not old.ended]
        size = len(keep.request)
        if self._bytes + size > self._max_bytes:
            self._drop_oldest(size)
        if self._bytes + size > self._max_bytes:
            return
        kept = KeptSequence(request, keep, reader, size_bytes=size)
        self._bytes += size
        for name in keep.names:
            self._streams.setdefault(name, {})[keep.index] = kept
        self._by_request.setdefault(request.key, []).append(kept)
        self._by_reader[reader] = kept

    def holds(self, request: Request) -> bool:
        """Whether a request must go on without subscribers."""
        return request.key in self._by_request

    def claim(self, message: Claim, now: float) -> tuple[Claimed, Notices]:
        """Take a stream's sequences from their readers; return the answer, and notices for them."""
        sequences = self._streams.get(message.name, {})
        readers = [kept.reader for kept in sequences.values() if kept.reader]
        for reader in readers:
            self.leave(reader, now)
        request = sequences[0].keep.request if 0 in sequences else b""
        counted = {index: kept.counted for index, kept in sequences.items()}
        return Claimed(message.id, request, counted), [_taken_from(reader) for reader in readers]

    def join(self, keep: Keep, reader: Subscriber, now: float) -> tuple[Delta | None, Notices]:
        """Give a claimed sequence a reader; return the output so far, and notices.

        Of two that have claimed it, the one that joins last has it.
        """
        kept = self._find(keep.names[0], keep.index)
        if kept is None:
            return None, [(reader, RequestError("stream_not_found", _GONE))]
        request, before = kept.request, kept.reader
        delta = catch_up(request, reader, coalesced=False)
        if kept.ended:
            kept.until = now + keep.seconds
            stopped = request.finish_reason is None
            # A reader that knows why it was stopped has ended when it hears of that.
            return delta, [(reader, RequestError("stream_not_found", _GONE))] if stopped else []
        if before is not None:
            self.leave(before, now)
        kept.reader, kept.until = reader, math.inf
        self._by_reader[reader] = kept
        self._subscriptions.add(request, reader)
        return delta, [_taken_from(before)] if before else []

    def leave(self, reader: Subscriber, now: float, *, counts: bool = True) -> bool:
        """Unsubscribe a reader that is gone; return whether there is one, of a kept sequence.

        Args:
            reader: The reader.
            now: The time.
            counts: Whether it counts what it got; not if its process was killed.
        """
        kept = self._by_reader.pop(reader, None)
        if kept is None:
            return False
        kept.reader, kept.until = None, now + kept.keep.seconds
        if counts:
            kept.counted = kept.request.generated_tokens
        self._subscriptions.leave(reader)
        return True

    def stop(self, reader: Subscriber, now: float) -> Request | None:
        """Unsubscribe a reader that has stopped its sequence, whose output is kept.

        Returns the request, if it need not go on.
        """
        kept = self._by_reader.get(reader)
        if kept is None or not self.leave(reader, now):
            return None
        self._end(kept, now)
        return self._unwanted(kept.request)

    def finish(self, request: Request, now: float) -> None:
        """Keep the output of a request that has finished."""
        for kept in self._by_request.get(request.key, ())[:]:
            if kept.reader is not None:
                self.leave(kept.reader, now)
            self._end(kept, now)

    def fail(self, request: Request) -> None:
        """Drop the sequences of a request that has failed."""
        self._drop(self._by_request.get(request.key, []))

    def expire(self, now: float) -> list[Request]:
        """Drop what is kept for too long; return the requests that need not go on."""
        every = {id(k): k for stream in self._streams.values() for k in stream.values()}.values()
        late = [kept for kept in every if kept.until <= now]
        self._drop(late)
        left, self._replaced = self._replaced, []
        left += [kept.request for kept in late if not kept.ended]
        return [request for request in left if self._unwanted(request)]

    def _unwanted(self, request: Request) -> Request | None:
        """Return a request that nothing keeps in the engine any more."""
        if request.subscribers or self.holds(request):
            return None
        self._subscriptions.forget(request)
        return request

    def _find(self, name: bytes, index: int) -> KeptSequence | None:
        return self._streams.get(name, {}).get(index)

    def _end(self, kept: KeptSequence, now: float) -> None:
        kept.ended, kept.until = True, now + kept.keep.seconds
        self._unlink(kept)
        request = kept.request
        size = (len(request.prompt) + len(request.output)) * _TOKEN_BYTES
        size += _size_of(request.output_logprobs) + _size_of(request.prompt_logprobs)
        kept.size_bytes += size
        self._bytes += size
        self._drop_oldest(0)

    def _drop_oldest(self, room: int) -> None:
        """Drop what has ended, of the oldest stream first, until so many bytes are free."""
        for stream in list(self._streams.values()):
            if self._bytes + room <= self._max_bytes:
                return
            self._drop([kept for kept in stream.values() if kept.ended])

    def _unlink(self, kept: KeptSequence) -> None:
        """Forget that its request must go on."""
        others = self._by_request.get(kept.request.key, [])
        if kept in others:
            others.remove(kept)
        if not others:
            self._by_request.pop(kept.request.key, None)

    def _drop(self, sequences: list[KeptSequence]) -> None:
        for kept in sequences[:]:
            self._bytes -= kept.size_bytes
            self._unlink(kept)
            if kept.reader is not None:
                self._by_reader.pop(kept.reader, None)
            for name in kept.keep.names:
                stream = self._streams.get(name, {})
                if stream.get(kept.keep.index) is kept:
                    del stream[kept.keep.index]
                if not stream:
                    self._streams.pop(name, None)


def _is_whole(request: Request) -> bool:
    """Whether the engine has all of the output that a later reader needs."""
    return not (request.continued and request.options.logprobs is not None)


def _size_of(places: Sequence[Logprobs | None] | None) -> int:
    """Return the bytes of log probabilities. All positions of a sequence have equally many."""
    # Only a prompt's first token has none.
    if not places or (last := places[-1]) is None:
        return 0
    return len(places) * (_POSITION_BYTES + len(last.token_ids) + len(last.logprobs))


def _taken_from(reader: Subscriber) -> tuple[Subscriber, RequestError]:
    return reader, RequestError("stream_taken_over", _TAKEN)
