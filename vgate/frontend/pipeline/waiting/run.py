"""Runs an answer's sequences in an engine, from their start to their end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from vgate.errors import VGateError
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics


async def run(
    http: HttpRequest,
    engine: EnginePool,
    answer: BaseAnswer,
    start: Callable[[], Iterable[None] | None],
    ended: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Start an answer's sequences and wait until all of them have ended.

    Others run whenever `start` yields. At the end it waits for `ended`, too: streams that ran in
    the same step end together.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: There is no complete answer.
    """
    http.on_disconnect(answer.give_up)
    try:
        try:
            for _ in start() or ():
                await asyncio.sleep(0)
                if answer.done.done():
                    break
        except VGateError as error:
            # A stream may have begun by then, and has to say how it ended.
            answer.fail(error)
        await answer.done
        if ended is not None:
            await ended()
    finally:
        # However it ended: no engine may have a sequence of an answer that is closed.
        engine.abort(answer.sequences)
        if engine.residence is not None:
            _note_wait(http, answer)
        http.release()
        answer.close()


def _note_wait(http: HttpRequest, answer: BaseAnswer) -> None:
    """Note how long an answer's sequences waited for the model to be loaded, if they did."""
    waited_s = max((sequence.model_wait_s for sequence in answer.sequences), default=0.0)
    if waited_s:
        http.waited_s += waited_s
        metrics.MODEL_WAIT.labels(http.admission.model).observe(waited_s)
