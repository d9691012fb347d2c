"""How a request, as a visitor, waits for a model whose text side this worker lacks."""

from functools import partial

from vgate.errors import DeadlineExceededError
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline.serve import Context
from vgate.frontend.pipeline.waiting.run import run
from vgate.frontend.pipeline.waiting.streams import speak
from vgate.frontend.text import TextModel


async def text_of(context: Context, http: HttpRequest, model: ServedModel) -> TextModel:
    """Return a model's text side, after the model was loaded if it had to be for that.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: The model can't be loaded, or too many wait, or it took too long.
    """
    residence = model.residence
    if residence is not None and model.text is None:
        await model.recall()
    if residence is None or model.text is not None:
        return await model.wait_until_ready()
    if http.admission.grant is None:
        # It counts as a request that runs.
        await http.admission.reserve(0)
    answer = BaseAnswer(context.loop, 0)

    def start() -> None:
        residence.visit(answer, len(http.read_body), http.admission.key.name)
        if http.streams:
            context.notices.add(answer, model, http.admission.model, partial(speak, http))

    timer = context.loop.call_later(context.timeouts.request_s, answer.fail, _too_late())
    context.running.add(http, model.name, model.engine, answer)
    try:
        await run(http, model.engine, answer, start)
    finally:
        timer.cancel()
        context.running.discard(answer)
        context.notices.discard(answer)
        if answer in residence:
            waited_s = residence.end_visit(answer)
            http.waited_s += waited_s
            metrics.MODEL_WAIT.labels(model.name).observe(waited_s)
    return await model.wait_until_ready()


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError(
        "the model was not loaded within the time that timeouts.request_s allows"
    )
