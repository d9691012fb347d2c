"""``POST /v1/embeddings``: tokenise, have the pooling engine embed, answer."""

from __future__ import annotations

from functools import partial

from vgate.errors import (
    ContextLengthExceededError,
    DeadlineExceededError,
    InvalidValueError,
    VGateError,
)
from vgate.frontend.answers.embeddings import EmbeddingAnswer
from vgate.frontend.apis.openai.embeddings.request import (
    MAX_INPUTS,
    EmbeddingRequest,
    decode_embeddings,
    encode_response,
)
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline import serving
from vgate.frontend.services import Services
from vgate.frontend.text.model import TextModel
from vgate.frontend.text.token_ids import check_token_ids
from vgate.frontend.text.truncation import Truncation, encode_texts
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Embed

# What is under way of one request: enough to keep the engine's batches full, and no more, so that a
# request of 2,048 inputs neither fills the queue nor is refused because it would.
_LEAST_WINDOW = 32
_BATCHES_AHEAD = 4
# Encoding more takes milliseconds, for which no stream shall wait.
_ENCODE_INLINE_BYTES = 65_536


async def embeddings(services: Services, http: HttpRequest) -> Response:
    """Answer an embedding request."""
    request = decode_embeddings(await http.body(services.config.server.max_body_bytes))
    model = services.model(request.model)
    http.log_fields["model"] = request.model
    text = await model.wait_until_ready()
    if model.config.task != "embed":
        message = f"the model `{request.model}` does not embed text; use /v1/chat/completions"
        raise InvalidValueError(message, param="model")
    prompts = await _tokenize(services, text, request)
    total = sum(map(len, prompts))
    http.log_fields["prompt_tokens"] = total
    await http.admission.reserve(total)
    vectors = await _embed(services, http, request, model, prompts)
    metrics.PROMPT_TOKENS.labels(model.names[0]).inc(total)
    encode = partial(encode_response, vectors, model.names[0], total, request.encoding)
    if sum(map(len, vectors)) > _ENCODE_INLINE_BYTES:
        return Response(200, await services.loop.run_in_executor(None, encode), [JSON])
    return Response(200, encode(), [JSON])


async def _tokenize(
    services: Services, text: TextModel, request: EmbeddingRequest
) -> list[list[int]]:
    """Return the token ids of each input.

    Raises:
        InvalidValueError: Too many inputs, different kinds of them, or unknown token ids.
        ContextLengthExceededError: One is too long.
    """
    limit = text.info.max_model_len
    truncation = _truncation(request, limit)
    prompts, texts = _split(request.input)
    names = _names(request.input, len(prompts) + len(texts))
    if texts:
        encode = partial(
            encode_texts, text, truncation=truncation, special=request.add_special_tokens
        )
        prompts = await services.tokenize(encode, texts, sum(map(len, texts)))
    else:
        for name, prompt in zip(names, prompts, strict=True):
            check_token_ids(text, prompt, name)
        if truncation is not None:
            prompts = [truncation.cut(prompt) for prompt in prompts]
    for name, prompt in zip(names, prompts, strict=True):
        if len(prompt) > limit:
            message = (
                f"`{name}` has {len(prompt)} tokens, the model's limit is {limit}; "
                "`truncate_prompt_tokens` cuts what is longer"
            )
            raise ContextLengthExceededError(message, param=name)
        if not prompt:
            message = f"`{name}` has no tokens"
            raise InvalidValueError(message, param=name)
    return prompts


def _truncation(request: EmbeddingRequest, limit: int) -> Truncation | None:
    keep = request.truncate_prompt_tokens
    if keep is None:
        return None
    if keep > limit:
        message = f"`truncate_prompt_tokens` must be at most the model's limit {limit}, got {keep}"
        raise InvalidValueError(message, param="truncate_prompt_tokens")
    # vLLM keeps the first tokens for pooling models, and so the one that many of them pool.
    return Truncation(limit if keep < 0 else keep, request.truncation_side or "right")


def _names(given: object, count: int) -> list[str]:
    """Return what each input is called in an error."""
    is_one = isinstance(given, str) or (isinstance(given, list) and isinstance(given[0], int))
    return ["input"] if is_one else [f"input[{index}]" for index in range(count)]


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
    tenant, weight = serving.tenant_of(http)
    timeouts = services.config.timeouts

    def submit(sequence: Sequence) -> None:
        message = Embed(
            id=model.engine.next_id(),
            prompt=pack_token_ids(prompts[sequence.index]),
            dimensions=request.dimensions,
            tenant=tenant,
            weight=weight,
            queue_timeout_s=timeouts.queue_s,
        )
        model.engine.submit(sequence, message, timeouts.request_s)

    answer = EmbeddingAnswer(services.loop, len(prompts), _window(services), submit)
    # The engine client knows only how long each of them takes.
    late = DeadlineExceededError("the request took longer than timeouts.request_s allows")
    deadline = services.loop.call_later(timeouts.request_s, answer.fail, late)
    http.on_disconnect(answer.give_up)
    try:
        answer.start()
        await answer.done
    except BaseException as error:
        model.engine.abort(answer.sequences)
        if isinstance(error, VGateError):
            http.admission.settle(0)
        if isinstance(error, InvalidValueError) and "dimensions" in error.message:
            # Which ones a model allows is known to its engine alone; an error crosses the wire
            # without the field's name.
            raise InvalidValueError(error.message, param="dimensions") from None
        raise
    finally:
        deadline.cancel()
        http.release()
        answer.close()
    return [sequence.vector or b"" for sequence in answer.sequences]


def _window(services: Services) -> int:
    batch = services.config.batch
    return min(batch.max_queue_size, max(_LEAST_WINDOW, _BATCHES_AHEAD * batch.max_batch_size))
