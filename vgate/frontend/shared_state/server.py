"""Calls to the shared server, and whether it is there.

Calls that are made while others are under way go out together in one round trip. A call that
fails is not repeated: its caller does without. What must reach the server is sent until it has.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from vgate.config.schema import State
from vgate.frontend.observe import metrics
from vgate.frontend.shared_state.calls import TICKS, Answer, Call, Script, decode_answer, encode
from vgate.frontend.shared_state.times import ServerClock, in_time
from vgate.log import Log
from vgate.state_link import code_of, explain, open_client, read_info

if TYPE_CHECKING:
    from redis.asyncio import Redis

_MOST_AT_ONCE = 256
# What must reach the server but can't: older than any window of tokens, it means little.
_MOST_OWED = 100_000
_OWED_S = 120
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
# Nobody waits for the probe, and a new connection may take longer than a call.
_PROBE_S = 2.0
_LOG_PAUSE_S = 10.0
_BEATS_PER_LEASE = 3

_RESTARTED = "the server of state.url was restarted, and requests of keys with limits are refused"

log = Log("vgate.frontend")


class StateAwayError(OSError):
    """The server could not be asked.

    Attributes:
        unsure: Whether it may have done what it was asked all the same.
    """

    def __init__(self, reason: str, *, unsure: bool = False) -> None:
        super().__init__(reason)
        self.unsure = unsure


class _Sent(msgspec.Struct, eq=False):
    """A call on its way; without a future, it is sent until it has arrived."""

    keys: tuple[str, ...]
    payload: bytes
    future: "asyncio.Future[Answer] | None"
    since: float
    lasting: bool = False
    is_out: bool = False


class SharedState:
    """One worker's link to the server.

    Args:
        loop: The event loop, which may not run yet.

    Attributes:
        away: Why the server can't be used now; None if it can. As long as it is set, calls fail
            at once, and a probe finds out when the server is back.
        strict: Whether nobody may be admitted that the limits of all gateways would refuse.
        settled_at: When, by our monotonic clock, gateways have told a server that was restarted
            what they know, so that its counts can be trusted if it is `strict`.
        on_beat: Called a few times in each lease, while the server is there.
        on_back: Called when it is there for the first time, and when it is there again.
        client: For what isn't a call. It connects when it is used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: State) -> None:
        self._loop = loop
        self._settings = settings
        self.timeout_s = settings.timeout_ms / 1000
        self.strict = settings.on_failure == "refuse"
        # As long as other gateways may still have to tell a server that was restarted what it lost.
        self._settle_s = settings.lease_s / _BEATS_PER_LEASE + _PROBE_S
        self.settled_at = 0.0
        self._run_id: str | None = None
        self.client: Redis = open_client(
            settings, timeout_s=_PROBE_S, on_connect=self._look if self.strict else None
        )
        self._script = Script(self.client)
        self.away: str | None = "it has not answered yet" if self.strict else None
        self.on_beat: list[Callable[[], None]] = []
        self.on_back: list[Callable[[], None]] = []
        self._waiting: deque[_Sent] = deque()
        self._owed: deque[_Sent] = deque(maxlen=_MOST_OWED)
        self._sending = False
        self._closed = False
        self._clock = ServerClock()
        self._next_log = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.show_state_zeros(settings.on_failure)
        self._run(self._beat())

    async def call(self, keys: tuple[str, ...], call: Call) -> Answer:
        """Have the script called, and return its answer, within `timeout_s`.

        The script does nothing for a call that it gets later than that.

        Raises:
            StateAwayError: There is no answer.
        """
        if self.away is not None:
            raise StateAwayError(self.away)
        call.deadline = self._clock.in_future(self.timeout_s)
        sent = _Sent(keys, encode(call), self._loop.create_future(), time.monotonic())
        self._enqueue(sent)
        assert sent.future is not None
        try:
            answer = await in_time(sent.future, self.timeout_s)
        except TimeoutError as error:
            self._fail(error)
            raise StateAwayError("it doesn't answer in time", unsure=sent.is_out) from None
        if answer.reason == "late":
            raise StateAwayError("it doesn't answer in time")
        return answer

    def post(self, keys: tuple[str, ...], call: Call, *, lasting: bool = True) -> None:
        """Have the script called soon: once it has arrived, or within `timeout_s` if not `lasting`.

        What lasts must not change anything if it arrives twice.
        """
        if not lasting:
            call.deadline = self._clock.in_future(self.timeout_s)
        sent = _Sent(keys, encode(call), None, time.monotonic(), lasting)
        if self.away is None:
            self._enqueue(sent)
        elif lasting:
            self._owed.append(sent)

    def problems(self) -> list[str]:
        """Return why the server can't be used, and what happens instead; nothing if it can."""
        if self.away is None:
            left_s = self.settled_at - time.monotonic()
            return [f"{_RESTARTED} for {left_s:.0f} s more"] if left_s > 0 else []
        instead = "each gateway counts on its own"
        if self.strict:
            instead = "requests of keys with limits are refused"
        return [f"the server of state.url can't be used, so {instead}: {self.away}"]

    def close(self) -> None:
        """Drop what could not be sent. Called after the loop has stopped, or is about to."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._loop.is_running():
            self._run(self.client.aclose())

    def _enqueue(self, sent: _Sent) -> None:
        self._waiting.append(sent)
        if not self._sending:
            self._sending = True
            self._run(self._send_all())

    async def _send_all(self) -> None:
        """Send what waits, one round trip after the other."""
        try:
            while self._waiting:
                batch: list[_Sent] = []
                while self._waiting and len(batch) < _MOST_AT_ONCE:
                    sent = self._waiting.popleft()
                    if sent.future is None or not sent.future.done():
                        sent.is_out = True
                        batch.append(sent)
                if batch:
                    await self._send(batch)
        finally:
            self._sending = False

    async def _send(self, batch: list[_Sent]) -> None:
        try:
            calls = [(each.keys, each.payload) for each in batch]
            replies = await in_time(asyncio.ensure_future(self._script.run(calls)), self.timeout_s)
        except Exception as error:  # noqa: BLE001 - whatever the library makes of a broken link
            self._fail(error)
            replies = [error] * len(batch)
        for sent, reply in zip(batch, replies, strict=True):
            if isinstance(reply, BaseException):
                self._miss(sent, reply)
                continue
            answer = decode_answer(reply)
            if sent.future is not None and not sent.future.done():
                sent.future.set_result(answer)
        if isinstance(replies[-1], bytes):
            self._clock.note(decode_answer(replies[-1]).time)

    def _miss(self, sent: _Sent, error: BaseException) -> None:
        """Take note of a call without an answer."""
        if code_of(error):
            self._fail(error)
        if sent.future is not None:
            if not sent.future.done():
                sent.future.set_exception(StateAwayError(explain(error), unsure=True))
        elif sent.lasting and time.monotonic() - sent.since < _OWED_S:
            self._owed.append(sent)

    def _fail(self, error: BaseException) -> None:
        if self.away is not None:
            return
        self._note(error)
        waiting, self._waiting = self._waiting, deque()
        for sent in waiting:
            if sent.future is not None and not sent.future.done():
                sent.future.set_exception(StateAwayError(explain(error)))
            elif sent.lasting:
                self._owed.append(sent)
        self._run(self._probe_until_back())

    def _note(self, error: BaseException) -> None:
        """Take note that the server is lost."""
        self.away = explain(error)
        metrics.STATE_FAILURES.labels((code_of(error) or type(error).__name__).lower()).inc()
        if (now := time.monotonic()) >= self._next_log:
            self._next_log = now + _LOG_PAUSE_S
            instead = "requests with limits are refused" if self.strict else "this machine's limits"
            log.error("the server of state.url can't be used", reason=self.away, instead=instead)

    async def _probe_until_back(self, *, first: bool = False) -> None:
        began = counted = time.monotonic()
        pause_s = 0.0 if first else _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            if self._ends():
                return
            pause_s = min(2 * pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            now = time.monotonic()
            metrics.STATE_AWAY_S.labels(self._settings.on_failure).inc(now - counted)
            counted = now
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - as above
                if first:
                    self._note(error)
                    first = False
                self.away = explain(error)
            else:
                break
        self.away = None
        if not first:
            log.info("the server of state.url can be used again", away_s=round(now - began, 3))
        owed, self._owed = self._owed, deque(maxlen=_MOST_OWED)
        for sent in owed:
            self._enqueue(sent)
        self._tell(self.on_back)

    async def _probe(self) -> None:
        """Raise unless the server takes a call as a request would make it."""
        async with asyncio.timeout(_PROBE_S):
            await self.client.ping()
            await self._script.load()
        keys = tuple(f"{self._settings.prefix}:{{probe}}:{n}" for n in range(7))
        lease = round(TICKS * self._settings.lease_s)
        call = Call(
            op="admit", id="probe", second=TICKS, token_window=TICKS, lease=lease, cost=0, tokens=0
        )
        calls = [(keys, encode(call))]
        (reply,) = await in_time(asyncio.ensure_future(self._script.run(calls)), self.timeout_s)
        if isinstance(reply, BaseException):
            raise reply
        self._clock.note(decode_answer(reply).time)

    async def _look(self, connection: Any) -> None:
        """Make a connection ready, unless its server isn't the one that we know.

        What is under way must not be decided on by a server that may have lost its counts.
        """
        from redis.exceptions import ConnectionError as Refused
        from redis.exceptions import NoPermissionError

        await connection.on_connect()
        try:
            await connection.send_command("INFO", "server")
            info = read_info(await connection.read_response())
        except NoPermissionError:
            return
        before, self._run_id = self._run_id, info.get("run_id")
        if before == self._run_id:
            return
        up_s = float(info.get("uptime_in_seconds") or 0)
        self.settled_at = time.monotonic() + self._settle_s - up_s
        if before is not None:
            raise Refused("it was restarted")

    async def _beat(self) -> None:
        if told := self.strict:
            await self._probe_until_back(first=True)
        while not self._ends():
            if self.away is None:
                try:
                    await self._probe()
                except Exception as error:  # noqa: BLE001 - as above
                    self._fail(error)
                else:
                    self._tell(self.on_beat if told else self.on_back)
                    told = True
            await asyncio.sleep(self._settings.lease_s / _BEATS_PER_LEASE)

    def _ends(self) -> bool:
        """Whether the running task should end; the library may swallow that it was cancelled."""
        task = asyncio.current_task()
        return self._closed or (task is not None and task.cancelling() > 0)

    def _tell(self, those: list[Callable[[], None]]) -> None:
        for each in those:
            try:
                each()
            except OSError as error:
                log.error("the shared server could not be told what is used", reason=error)

    def _run(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            with suppress(asyncio.CancelledError):
                await work

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
