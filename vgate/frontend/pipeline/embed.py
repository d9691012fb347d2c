"""From an embed request to its vectors: tokenise, check, run a few inputs at a time."""

from itertools import groupby

from vgate.config.schema import Batch
from vgate.errors import (
    ContextLengthExceededError,
    InvalidValueError,
    VGateError,
)
from vgate.frontend.answers.embeddings import EmbeddingAnswer
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline.parameters import cache_salt, check_truncation, token_limit
from vgate.frontend.pipeline.port import EmbedRequest
from vgate.frontend.pipeline.prepare import check_length, explained
from vgate.frontend.pipeline.serve import Context
from vgate.frontend.pipeline.waiting.run import run
from vgate.frontend.text import TextModel, TokenLimit, TooManyTokensError
from vgate.usage import Used
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Embed

# Inputs of one request that run at once: enough to fill the engine's batches, and few enough that a
# request of 2,048 inputs isn't refused because of its size, nor are a few of one API key, which may
# fill half of the queue.
_LEAST_WINDOW = 32
_BATCHES_AHEAD = 4
_QUEUE_SHARE = 0.125
_HINT = ", or cut it with `truncate_prompt_tokens`"


def embed_window(batch: Batch) -> int:
    """Return the most inputs of one request that may run at once."""
    most = min(_BATCHES_AHEAD * batch.sequences, int(batch.max_queue_size * _QUEUE_SHARE))
    # An API key may not have more in the queue.
    return max(1, min(batch.max_queue_size // 2, max(_LEAST_WINDOW, most)))


def input_tokens(text: TextModel, request: EmbedRequest) -> list[list[int]]:
    """Return the token ids of each input.

    Raises:
        InvalidValueError: A token id is unknown, or an input has no tokens.
        ContextLengthExceededError: An input is too long.
    """
    most = text.info.max_model_len
    check_truncation(request.truncation, most)
    limit = TokenLimit(most, refuses=True)
    if request.truncation is not None:
        limit = token_limit(request.truncation, most)
    texts = [item for item in request.inputs if isinstance(item, str)]
    if texts:
        prompts = _tokens_of_texts(text, texts, limit, request)
    else:
        prompts = [item for item in request.inputs if not isinstance(item, str)]
        for index, prompt in enumerate(prompts):
            text.check_token_ids(prompt, f"input[{index}]")
        if not limit.refuses:
            prompts = [limit.cut(prompt) for prompt in prompts]
    for index, prompt in enumerate(prompts):
        _check_length(prompt, most, f"input[{index}]")
    return prompts


def _tokens_of_texts(
    text: TextModel, texts: list[str], limit: TokenLimit, request: EmbedRequest
) -> list[list[int]]:
    special = request.add_special_tokens
    if not request.text_limits:
        return _tokens_of(text, texts, limit, special=special)
    special_count = len(text.tokenizer.encode_batch([""], special=special)[0])
    prompts: list[list[int]] = []
    # Texts with the same limit follow each other, so there are few groups.
    for text_limit, same in groupby(request.text_limits):
        first = len(prompts)
        group = texts[first : first + len(list(same))]
        group_limit = limit
        if text_limit is not None and text_limit + special_count <= limit.keep:
            group_limit = TokenLimit(text_limit + special_count)
        prompts += _tokens_of(text, group, group_limit, special=special, first=first)
    return prompts


def _tokens_of(
    text: TextModel, texts: list[str], limit: TokenLimit, *, special: bool, first: int | None = None
) -> list[list[int]]:
    """Return the token ids of texts.

    `first` is the index of the first text among the request's inputs, for errors; None if these are
    all inputs.
    """
    where = "input"
    try:
        for index, item in enumerate(texts, first or 0):
            where = f"input[{index}]"
            check_length(text, item, limit)
        where = "input" if first is None or len(texts) > 1 else where
        return text.tokenizer.encode_batch(texts, special=special, limit=limit)
    except (TooManyTokensError, InvalidValueError) as error:
        if isinstance(error, TooManyTokensError) and error.index is not None:
            error.index += first or 0
        raise explained(error, where, limit.keep, _HINT) from None


async def embed(
    context: Context,
    http: HttpRequest,
    model: ServedModel,
    prompts: list[list[int]],
    dimensions: int | None,
    window: int,
) -> list[bytes]:
    """Return the vector of each prompt, float32 and little-endian; `window` run at once.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: A limit or the engine refuses it, or it took too long.
    """
    total, name = sum(map(len, prompts)), http.admission.model
    http.log_fields["prompt_tokens"] = total
    await http.admission.reserve(total)
    # Also what nobody waits for any more.
    http.admission.settle(name, Used(prompt_tokens=total))
    key, timeouts = http.admission.key, context.timeouts
    deadline = context.loop.time() + timeouts.request_s - http.waited_s

    def submit(sequence: Sequence) -> None:
        sequence.fields = {"prompt": "input"}
        message = Embed(
            id=model.engine.next_id(),
            prompt=pack_token_ids(prompts[sequence.index]),
            dimensions=dimensions,
            tenant=key.name,
            weight=key.weight,
            queue_timeout_s=timeouts.queue_s,
            cache_salt=cache_salt(http.admission.scope),
        )
        model.engine.submit(sequence, message, deadline - context.loop.time())

    answer = EmbeddingAnswer(context.loop, len(prompts), window, submit)
    context.running.add(http, name, model.engine, answer)
    try:
        await run(http, model.engine, answer, answer.start, context.work.turns.end)
    except VGateError:
        http.admission.settle(name, Used())
        raise
    finally:
        context.running.discard(answer)
    metrics.PROMPT_TOKENS.labels(name).inc(total)
    return [sequence.vector or b"" for sequence in answer.sequences]


def _check_length(prompt: list[int], limit: int, where: str) -> None:
    if len(prompt) > limit:
        raise ContextLengthExceededError.of_prompt(len(prompt), limit, where, _HINT)
    if not prompt:
        message = f"`{where}` has no tokens"
        raise InvalidValueError(message, param=where)
