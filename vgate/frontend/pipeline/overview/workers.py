"""Questions to all workers of the instance about their requests, over the exchange."""

import asyncio
import os
from collections.abc import Callable

import msgspec

from vgate.frontend.pipeline.overview.running import RunningRequests
from vgate.frontend.pipeline.port import AllRequests, RequestInfo

# A worker that is stopped doesn't answer; the others do at once, but for `running._ENGINE_S`.
_ANSWER_S = 0.5
_MOST_REQUESTS = 1000
# What begins our messages and no entry of the result cache.
_MARK = b"?"


class Question(msgspec.Struct, frozen=True, tag=True):
    """Asks for the oldest requests or, with `cancel`, to end those with that id.

    `by` says who ends them.
    """

    id: bytes
    cancel: str | None = None
    by: str = ""


class Told(msgspec.Struct, frozen=True, tag=True):
    """A worker's answer.

    Attributes:
        id: The question's.
        count: How many requests it has, or has ended.
        requests: The oldest ones.
    """

    id: bytes
    worker: str
    count: int
    requests: list[RequestInfo] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Question | Told).decode


class AllWorkers:
    """All workers, this one included; see `vgate.frontend.pipeline.port.Workers`.

    Args:
        running: The requests of this worker.
        names: Returns the names of all workers.
        pass_on: Takes the other messages of other workers.

    Attributes:
        publish: Sends a message to the other workers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        running: RunningRequests,
        names: Callable[[], set[str]],
        pass_on: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._running = running
        self._names = names
        self._pass_on = pass_on
        self.publish: Callable[[bytes], None] = lambda _message: None
        self._asked: dict[bytes, asyncio.Queue[Told]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def receive(self, message: bytes) -> None:
        """Take a message of another worker."""
        if not message.startswith(_MARK):
            self._pass_on(message)
            return
        try:
            said = _decode(memoryview(message)[len(_MARK) :])
        except msgspec.DecodeError:
            return  # of another version
        if isinstance(said, Question):
            answering = self._loop.create_task(self._publish_answer(said))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
        elif (answers := self._asked.get(said.id)) is not None:
            answers.put_nowait(said)

    async def requests(self) -> AllRequests:
        """Return the requests of all workers."""
        return await self._ask(Question(os.urandom(8)))

    async def cancel(self, request_id: str, by: str) -> AllRequests:
        """End the requests with this id, wherever they run."""
        return await self._ask(Question(os.urandom(8), request_id, by))

    async def _ask(self, question: Question) -> AllRequests:
        silent = self._names() - {self._running.worker}
        answers = self._asked[question.id] = asyncio.Queue()
        if silent:
            self.publish(_MARK + _encode(question))
        told: list[Told] = []
        try:
            async with asyncio.timeout(_ANSWER_S):
                told.append(await self._answer(question))
                while silent:
                    told.append(await answers.get())
                    silent.discard(told[-1].worker)
        except TimeoutError:
            pass
        finally:
            del self._asked[question.id]
        requests = [request for each in told for request in each.requests]
        requests.sort(key=lambda request: -request.age_s)
        count = sum(each.count for each in told)
        return AllRequests(requests[:_MOST_REQUESTS], count, sorted(silent))

    async def _publish_answer(self, question: Question) -> None:
        self.publish(_MARK + _encode(await self._answer(question)))

    async def _answer(self, question: Question) -> Told:
        running = self._running
        if question.cancel is not None:
            return Told(question.id, running.worker, running.cancel(question.cancel, question.by))
        requests = await running.oldest(_MOST_REQUESTS)
        return Told(question.id, running.worker, len(running), requests)
