"""The requests of this worker that wait for an engine's output, and how an admin ends one."""

import asyncio
import time

import msgspec

from vgate.errors import CancelledByAdminError
from vgate.frontend.answers.answer import Answer, StreamedAnswer
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.frontend.http import HttpRequest
from vgate.frontend.pipeline.port import RequestInfo
from vgate.log import Log
from vgate.wire.progress import RequestProgress

# How long engines have to say how far they are; one in a long step can't.
_ENGINE_S = 0.2

log = Log("vgate.frontend")


class _Running(msgspec.Struct, frozen=True):
    http: HttpRequest
    name: str
    engine: EnginePool
    answer: BaseAnswer


class RunningRequests:
    """The requests of one worker, which has the name `worker`."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        # By the answer, in order of submission: clients may give two requests one id.
        self._running: dict[BaseAnswer, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def add(self, http: HttpRequest, name: str, engine: EnginePool, answer: BaseAnswer) -> None:
        """Add a request for an answer of the model with this name."""
        self._running[answer] = _Running(http, name, engine, answer)

    def discard(self, answer: BaseAnswer) -> None:
        """Remove the request of an answer."""
        self._running.pop(answer, None)

    async def oldest(self, most: int) -> list[RequestInfo]:
        """Return the oldest requests, at most so many."""
        progress: dict[EnginePool, dict[int, RequestProgress]] = {}
        asked = {
            asyncio.ensure_future(engine.progress()): engine
            for engine in {one.engine for one in self._running.values()}
        }
        if asked:
            answered, late = await asyncio.wait(asked, timeout=_ENGINE_S)
            progress = {asked[answer]: answer.result() for answer in answered}
            for question in late:
                question.cancel()
        oldest = sorted(self._running.values(), key=lambda one: one.http.arrived)[:most]
        return [self._info(one, progress.get(one.engine, {})) for one in oldest]

    def cancel(self, request_id: str, by: str) -> int:
        """End the requests with this id by an error; return how many. `by` is for the log."""
        found = [one for one in self._running.values() if one.http.id == request_id]
        for one in found:
            log.warning("a request is cancelled", request_id=request_id, by=by)
            one.http.log_fields["cancelled_by"] = by
            message = "an admin of this server has cancelled the request"
            one.answer.fail(CancelledByAdminError(message))
        return len(found)

    def _info(self, one: _Running, progress: dict[int, RequestProgress]) -> RequestInfo:
        http, answer = one.http, one.answer
        told = [found for s in answer.sequences if (found := progress.get(s.id)) is not None]
        prompt, generated, cached = http.log_fields.get("prompt_tokens", 0), 0, 0
        first_token_at = None
        if isinstance(answer, Answer):
            prompt, cached = answer.counts.prompt, answer.counts.cached
            first_token_at = answer.first_token_at
            # A buffered sequence has its tokens in the engine.
            generated = max(answer.counts.completion, sum(each.generated_tokens for each in told))
        begun = any(sequence.queued_s is not None for sequence in answer.sequences)
        running = first_token_at is not None or begun or any(each.running for each in told)
        now, served = time.monotonic(), http.log_fields.get("model", one.name)
        return RequestInfo(
            id=http.id,
            key=http.admission.key.name,
            model=http.log_fields.get("asked_model", served),
            served_model=one.name,
            api=http.path,
            state="running" if running else "waiting",
            age_s=round(now - http.arrived, 3),
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=generated,
            ttft_s=None if first_token_at is None else round(first_token_at - http.arrived, 4),
            stream=isinstance(answer, StreamedAnswer),
            client=http.client,
            worker=self.worker,
        )
