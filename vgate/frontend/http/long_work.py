"""Runs the long work of requests on threads, so that other requests don't wait for it.

Python code on a thread shares the interpreter with the event loop. So threads hand it over more
often while there is long work. API keys take turns, and work for a client that has left isn't
begun. Short work is done on the loop, for a few requests in each of its iterations.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from vgate.frontend.http.body_items import check_items
from vgate.frontend.http.content_encoding import Pieces, decompressed
from vgate.frontend.http.ignored import Ignored
from vgate.frontend.http.json_pieces import is_costly
from vgate.frontend.http.request import SMALL_BYTES, WHOLE_BYTES, HttpRequest
from vgate.frontend.http.waits import ClientDisconnected
from vgate.frontend.interpreter import interpreter

_Result = TypeVar("_Result")

# Of this many objects a request is read at once, because a thread would cost more.
FEW_ITEMS = 256
_THREADS = 2
# What the loop does in one iteration: each takes one to three hundred microseconds.
_AT_ONCE = 4
# How much of the work that was put off takes as long as one turn. It writes its log lines together.
_SHORT_AT_ONCE = 3
# How much work is put off at most; more is done at once.
_MOST_PUT_OFF = 128


class BodyLimits(msgspec.Struct, frozen=True):
    """The configuration's bounds of a body: `server.max_body_bytes` and `server.max_items`."""

    max_bytes: int
    max_items: int


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: "asyncio.Future[Any]"


class _ByKey:
    """Waiting turns: keys come round, and each one's turns in their order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def append(self, key: str, turn: asyncio.Future[None]) -> None:
        self._waiting.setdefault(key, deque()).append(turn)

    def popleft(self) -> asyncio.Future[None]:
        key = next(iter(self._waiting))
        turns = self._waiting.pop(key)
        turn = turns.popleft()
        if turns:
            # Behind the other keys: it had its turn.
            self._waiting[key] = turns
        return turn


class Turns:
    """Lets requests pass in the order in which they came, a few in each iteration of the loop.

    API keys take turns to begin, so that nobody's request waits for a burst of another key.
    When many streams end together, their clients' next requests come together. Without turns all
    of them are prepared in one iteration, and no stream gets a token until the last one is. Those
    that begin pass first, then answers that end, at least one in each iteration. Otherwise all of
    a burst would be ended before the first is prepared, and their next requests would reach the
    engine as one burst again. What nobody waits for comes when there is nothing else.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._beginning = _ByKey()
        self._ending: deque[asyncio.Future[None]] = deque()
        self._put_off: deque[Callable[[], None]] = deque()
        self._left = _AT_ONCE
        self._now: asyncio.Future[None] = loop.create_future()
        self._now.set_result(None)

    def begin(self, key: str) -> "asyncio.Future[None]":
        """Return what is done when a key's request may be prepared: at once, if few came."""
        if self._take():
            return self._now
        turn: asyncio.Future[None] = self._loop.create_future()
        self._beginning.append(key, turn)
        return turn

    def end(self) -> "asyncio.Future[None]":
        """Return what is done when an answer may be ended."""
        if self._take():
            return self._now
        turn: asyncio.Future[None] = self._loop.create_future()
        self._ending.append(turn)
        return turn

    def later(self, work: Callable[[], None]) -> None:
        """Do what nobody waits for: at once, or in a later iteration if this one has much to do.

        Some of it together is cheaper: lines of the log are written once an iteration.
        """
        if self._take():
            work()
            return
        self._put_off.append(work)
        if len(self._put_off) > _MOST_PUT_OFF:
            self._loop.call_soon(self._do_one)

    def finish(self) -> None:
        """Do all that was put off: the loop ends. An error in one is told, as in the loop."""
        while self._put_off:
            try:
                self._do_one()
            except Exception as error:  # noqa: BLE001 - the worker has more to close
                told = {"message": "error in what was put off", "exception": error}
                self._loop.call_exception_handler(told)

    def _take(self) -> bool:
        """Take a turn of this iteration, if one is left; then nobody waits for one."""
        if self._left == _AT_ONCE:
            self._loop.call_soon(self._next)
        if not self._left:
            return False
        self._left -= 1
        return True

    def _next(self) -> None:
        """Begin an iteration."""
        self._left = _AT_ONCE
        self._wake(self._beginning, keep=bool(self._ending))
        self._wake(self._ending, keep=0)
        short = min(len(self._put_off), _SHORT_AT_ONCE * self._left)
        groups = -(-short // _SHORT_AT_ONCE)
        for _ in range(groups):
            # Not here: an error would end the turns.
            self._loop.call_soon(self._do_few)
        self._left -= groups
        if self._left < _AT_ONCE:
            self._loop.call_soon(self._next)

    def _do_few(self) -> None:
        """Do some of the oldest together. Those after an error come in a later iteration."""
        for _ in range(_SHORT_AT_ONCE):
            self._do_one()

    def _do_one(self) -> None:
        """Do the oldest work that was put off."""
        if self._put_off:
            self._put_off.popleft()()

    def _wake(self, waiting: _ByKey | deque[asyncio.Future[None]], *, keep: int) -> None:
        """Let tasks pass until no more than `keep` turns are left."""
        while waiting and self._left > keep:
            turn = waiting.popleft()
            # A task that was cancelled needs none.
            if not turn.done():
                turn.set_result(None)
                self._left -= 1


class LongWork:
    """Runs the long work of one worker's requests.

    Attributes:
        limits: Of the requests' bodies.
        turns: For what is done on the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: BodyLimits) -> None:
        self._loop = loop
        self.limits = limits
        self._threads = ThreadPoolExecutor(_THREADS, "long-work")
        self._running: dict[str, int] = {}
        # By key, in the order of their turns.
        self._waiting: dict[str, deque[_Job]] = {}
        self.turns = Turns(loop)

    async def body(self, http: HttpRequest, most: int | None = None) -> bytes:
        """Return a request's whole body, decompressed, or that of the stream that it takes up.

        `most` may lower the configuration's limit of its bytes.

        Raises:
            PayloadTooLargeError: It has more bytes than the limits allow.
            VGateError: It can't be read.
        """
        most = min(most or self.limits.max_bytes, self.limits.max_bytes)
        if http.taken_up is not None:
            http.hold(len(http.taken_up.body))
            parts, encoding = [http.taken_up.body], None
        else:
            parts, encoding = await http.body(most), http.header("content-encoding")
        if encoding is not None and encoding != "identity":
            work = partial(_decompressed, parts, encoding, most)
            http.hold(len(body := await self.run(http, work)))
        elif sum(map(len, parts)) <= WHOLE_BYTES:
            body = b"".join(parts)
        else:
            body = await self.run(http, partial(_joined, parts))
        http.is_short = (
            len(body) <= SMALL_BYTES and body.count(b"{") <= FEW_ITEMS and not is_costly(body)
        )
        http.read_body = body
        await self.turns.begin(http.admission.key.name)
        return body

    async def read(
        self, http: HttpRequest, body: bytes, decode: Callable[[bytes, Ignored], _Result]
    ) -> _Result:
        """Return `decode(body, http.ignored)` for a request's body.

        Raises:
            PayloadTooLargeError: It has more values than the limits allow.
        """
        most = self.limits.max_items

        def read() -> _Result:
            if len(body) > most:  # each takes a byte at least
                check_items(body, most)
            return decode(body, http.ignored)

        return read() if http.is_short else await self.run(http, read)

    async def done(self, http: HttpRequest, work: Callable[[], _Result]) -> _Result:
        """Return the result of work whose time depends on the body; raise what it raises."""
        return work() if http.is_short else await self.run(http, work)

    async def run(self, http: HttpRequest, work: Callable[[], _Result]) -> _Result:
        """Return the result of work, which may run in any thread; raise what it raises.

        Raises:
            ClientDisconnected: The client is gone; work that had begun is not stopped.
        """
        done: asyncio.Future[_Result] = self._loop.create_future()
        key, job = http.admission.key.name, _Job(work, done)
        self._waiting.setdefault(key, deque()).append(job)
        http.on_disconnect(partial(_leave, done))
        try:
            self._begin()
            return await done
        except BaseException:
            # Now, not at its turn: the request's memory doesn't count any more.
            # Asked first, as the error of `remove` would spell the job out, with all of its body.
            if (waiting := self._waiting.get(key)) and job in waiting:
                waiting.remove(job)
            raise
        finally:
            http.release()
            # An error's traceback refers to this frame: only the garbage collector would free both.
            del done, job

    def close(self) -> None:
        """Let the threads end, and do what was put off."""
        self.turns.finish()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        """Begin what waits, as far as there are threads; no key has all if it has a name."""
        for key in list(self._waiting):
            jobs = self._waiting[key]
            while jobs and jobs[0].done.done():
                jobs.popleft()
            if not jobs:
                del self._waiting[key]
                continue
            free = _THREADS - sum(self._running.values())
            if free <= 0 or (key and self._running.get(key, 0) >= _THREADS - 1):
                continue
            job = jobs.popleft()
            # To the end of the keys: it had its turn.
            del self._waiting[key]
            self._waiting[key] = jobs
            self._start(key, job)

    def _start(self, key: str, job: _Job) -> None:
        interpreter.share()
        self._running[key] = self._running.get(key, 0) + 1
        future = self._loop.run_in_executor(self._threads, job.work)
        future.add_done_callback(partial(self._ended, key, job))

    def _ended(self, key: str, job: _Job, ran: "asyncio.Future[Any]") -> None:
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        interpreter.keep()
        error = ran.exception() if not ran.cancelled() else asyncio.CancelledError()
        if not job.done.done():
            if error is None:
                job.done.set_result(ran.result())
            else:
                job.done.set_exception(error)
        self._begin()


def _leave(done: "asyncio.Future[Any]") -> None:
    if not done.done():
        done.set_exception(ClientDisconnected())


def _joined(parts: Pieces) -> bytes:
    # Others can run while it copies (Objects/stringlib/join.h).
    body = b"".join(parts)
    parts.clear()
    return body


def _decompressed(parts: Pieces, encoding: str, limit_bytes: int) -> bytes:
    return decompressed(_joined(parts), encoding, limit_bytes)
