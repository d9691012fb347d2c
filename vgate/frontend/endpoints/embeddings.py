"""``POST /v1/embeddings``: tokenise, have the pooling engine embed, answer."""

from __future__ import annotations

import asyncio

from vgate.errors import ContextLengthExceededError, InvalidValueError, VGateError
from vgate.frontend import metrics, serving
from vgate.frontend.disconnect import ClientDisconnected
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.openai.embeddings import (
    MAX_INPUTS,
    EmbeddingRequest,
    decode_embeddings,
    encode_response,
)
from vgate.frontend.sequence import Sequence
from vgate.frontend.served_model import ServedModel
from vgate.frontend.services import Services
from vgate.frontend.text_model import TextModel
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Embed


class EmbeddingAnswer:
    """Waits for all embeddings of a request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.touched = False
        self.done: asyncio.Future[None] = loop.create_future()
        self.sequences = [Sequence(self, index) for index in range(count)]

    def flush(self) -> None:
        """See whether all have come, or one has failed."""
        if self.done.done():
            return
        error = next((s.error for s in self.sequences if s.error), None)
        if error is not None:
            self.fail(error)
        elif all(s.vector is not None for s in self.sequences):
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """End with an error, once."""
        if not self.done.done():
            self.done.set_exception(error)

    def give_up(self) -> None:
        """End because the client is gone."""
        self.fail(ClientDisconnected())


async def embeddings(services: Services, http: HttpRequest) -> Response:
    """Answer an embedding request."""
    request = decode_embeddings(await http.body(services.config.server.max_body_bytes))
    model = services.model(request.model)
    http.log_fields["model"] = request.model
    text = await model.text_soon()
    if model.config.task != "embed":
        message = f"the model `{request.model}` does not embed text; use /v1/chat/completions"
        raise InvalidValueError(message, param="model")
    prompts = await _tokenize(services, text, request)
    total = sum(map(len, prompts))
    http.log_fields["prompt_tokens"] = total
    services.access.reserve_tokens(http, total)
    vectors = await _embed(services, http, request, model, prompts)
    metrics.PROMPT_TOKENS.labels(model.names[0]).inc(total)
    body = encode_response(
        vectors, model.names[0], total, as_base64=request.encoding_format == "base64"
    )
    return Response(200, body, [JSON])


async def _tokenize(
    services: Services, text: TextModel, request: EmbeddingRequest
) -> list[list[int]]:
    """Return the token ids of each input.

    Raises:
        InvalidValueError: Too many inputs, or different kinds of them.
        ContextLengthExceededError: One is too long.
    """
    prompts, texts = _split(request.input)
    if texts:
        prompts = await services.tokenize(text.encode_plain, texts, sum(map(len, texts)))
    limit = text.info.max_model_len
    for index, prompt in enumerate(prompts):
        if len(prompt) > limit:
            message = f"input {index} has {len(prompt)} tokens, the model's limit is {limit}"
            raise ContextLengthExceededError(message, param="input")
        if not prompt:
            message = f"input {index} has no tokens"
            raise InvalidValueError(message, param="input")
    return prompts


def _split(given: object) -> tuple[list[list[int]], list[str]]:
    """Sort out the four kinds of input; one of the two lists is empty."""
    if isinstance(given, str):
        return [], [given]
    assert isinstance(given, list)
    if all(isinstance(item, int) for item in given):
        return [given], []
    if len(given) > MAX_INPUTS:
        message = f"`input` must have at most {MAX_INPUTS} items, got {len(given)}"
        raise InvalidValueError(message, param="input")
    if all(isinstance(item, str) for item in given):
        return [], given
    if all(isinstance(item, list) for item in given):
        return given, []
    message = "`input` must be one kind: text, a list of texts, token ids, or a list of lists"
    raise InvalidValueError(message, param="input")


async def _embed(
    services: Services,
    http: HttpRequest,
    request: EmbeddingRequest,
    model: ServedModel,
    prompts: list[list[int]],
) -> list[bytes]:
    answer = EmbeddingAnswer(services.loop, len(prompts))
    tenant, weight = serving.tenant_of(http)
    timeouts = services.config.timeouts
    http.on_disconnect(answer.give_up)
    try:
        for sequence, prompt in zip(answer.sequences, prompts, strict=True):
            message = Embed(
                id=model.engine.next_id(),
                prompt=pack_token_ids(prompt),
                dimensions=request.dimensions,
                tenant=tenant,
                weight=weight,
                queue_timeout_s=timeouts.queue_s,
            )
            model.engine.submit(sequence, message, timeouts.request_s)
        await answer.done
    except BaseException as error:
        model.engine.abort(answer.sequences)
        if http.admission is not None and isinstance(error, VGateError):
            http.admission.settle(0)
        raise
    finally:
        http.release()
    return [sequence.vector or b"" for sequence in answer.sequences]
