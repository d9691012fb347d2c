"""From an embed request to its vectors: tokenise, check, run a few inputs at a time."""

from __future__ import annotations

import asyncio
from functools import partial

from vgate.config.schema import Batch
from vgate.errors import (
    ContextLengthExceededError,
    DeadlineExceededError,
    InvalidValueError,
    VGateError,
)
from vgate.frontend.answers.embeddings import EmbeddingAnswer
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline.parameters import check_truncation
from vgate.frontend.pipeline.port import EmbedRequest
from vgate.frontend.pipeline.serve import Context, run, tenant_of
from vgate.frontend.pipeline.tokenizing import tokenize
from vgate.frontend.text import TextModel, TokenLimit
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Embed

# Inputs of one request under way at once: enough to keep the engine's batches full, and no more, so
# that a request of 2,048 inputs neither fills the queue nor is refused because it would.
_LEAST_WINDOW = 32
_BATCHES_AHEAD = 4


def embed_window(batch: Batch) -> int:
    """Return how many inputs of one request may be under way at once."""
    return min(batch.max_queue_size, max(_LEAST_WINDOW, _BATCHES_AHEAD * batch.max_batch_size))


async def input_tokens(
    loop: asyncio.AbstractEventLoop, text: TextModel, request: EmbedRequest
) -> list[list[int]]:
    """Return the token ids of each input.

    Raises:
        InvalidValueError: Unknown token ids, or an input without tokens.
        ContextLengthExceededError: One is too long.
    """
    limit = text.info.max_model_len
    check_truncation(request.truncation, limit)
    cut = None
    if request.truncation is not None:
        keep = request.truncation.keep_tokens
        cut = TokenLimit(limit if keep < 0 else keep, request.truncation.side)
    texts = [item for item in request.inputs if isinstance(item, str)]
    if texts:
        special = request.add_special_tokens
        encode = partial(text.tokenizer.encode_batch, truncation=cut, special=special)
        prompts = await tokenize(loop, encode, texts, sum(map(len, texts)))
    else:
        prompts = [item for item in request.inputs if not isinstance(item, str)]
        for index, prompt in enumerate(prompts):
            text.check_token_ids(prompt, f"input[{index}]")
        if cut is not None:
            prompts = [cut.cut(prompt) for prompt in prompts]
    for index, prompt in enumerate(prompts):
        _check_length(prompt, limit, f"input[{index}]")
    return prompts


async def embed(
    context: Context,
    http: HttpRequest,
    model: ServedModel,
    prompts: list[list[int]],
    dimensions: int | None,
    window: int,
) -> list[bytes]:
    """Return the vector of each prompt, float32 and little-endian.

    Args:
        context: What requests are served with.
        http: The request.
        model: The model.
        prompts: Token ids.
        dimensions: Length of the vectors; None for the model's own.
        window: The most prompts under way at once.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: A limit or the engine refuses it, or it took too long.
    """
    total = sum(map(len, prompts))
    http.log_fields["prompt_tokens"] = total
    await http.admission.reserve(total)
    tenant, weight = tenant_of(http)
    timeouts = context.timeouts

    def submit(sequence: Sequence) -> None:
        sequence.fields = {"prompt": "input"}
        message = Embed(
            id=model.engine.next_id(),
            prompt=pack_token_ids(prompts[sequence.index]),
            dimensions=dimensions,
            tenant=tenant,
            weight=weight,
            queue_timeout_s=timeouts.queue_s,
        )
        model.engine.submit(sequence, message, timeouts.request_s)

    answer = EmbeddingAnswer(context.loop, len(prompts), window, submit)
    # The engine client knows only how long each of them takes.
    late = DeadlineExceededError("the request took longer than timeouts.request_s allows")
    deadline = context.loop.call_later(timeouts.request_s, answer.fail, late)
    try:
        await run(http, model.engine, answer, answer.start)
    except VGateError:
        http.admission.settle(0)
        raise
    finally:
        deadline.cancel()
    metrics.PROMPT_TOKENS.labels(model.name).inc(total)
    return [sequence.vector or b"" for sequence in answer.sequences]


def _check_length(prompt: list[int], limit: int, where: str) -> None:
    if len(prompt) > limit:
        message = (
            f"`{where}` has {len(prompt)} tokens, the model's limit is {limit}; "
            "`truncate_prompt_tokens` cuts what is longer"
        )
        raise ContextLengthExceededError(message, param=where)
    if not prompt:
        message = f"`{where}` has no tokens"
        raise InvalidValueError(message, param=where)
