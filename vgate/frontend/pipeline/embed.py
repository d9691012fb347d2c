"""From the prompts of an embed request to its vectors: a few run at a time."""

from vgate.config.schema import Batch
from vgate.errors import VGateError
from vgate.frontend.answers.embeddings import EmbeddingAnswer
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline.inputs import Prompt
from vgate.frontend.pipeline.parameters import cache_salt
from vgate.frontend.pipeline.serve import Context
from vgate.frontend.pipeline.waiting.run import run
from vgate.usage import Used
from vgate.wire.messages import Embed

# Inputs of one request that run at once: enough to fill the engine's batches, and few enough that a
# request of 2,048 inputs isn't refused because of its size, nor are a few of one API key, which may
# fill half of the queue.
_LEAST_WINDOW = 32
_BATCHES_AHEAD = 4
_QUEUE_SHARE = 0.125


def embed_window(batch: Batch) -> int:
    """Return the most inputs of one request that may run at once."""
    most = min(_BATCHES_AHEAD * batch.sequences, int(batch.max_queue_size * _QUEUE_SHARE))
    # An API key may not have more in the queue.
    return max(1, min(batch.max_queue_size // 2, max(_LEAST_WINDOW, most)))


async def embed(
    context: Context,
    http: HttpRequest,
    model: ServedModel,
    prompts: list[Prompt],
    dimensions: int | None,
    window: int,
) -> list[bytes]:
    """Return the vector of each prompt, float32 and little-endian; `window` run at once.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: A limit or the engine refuses it, or it took too long.
    """
    total, name = sum(prompt.tokens for prompt in prompts), http.admission.model
    http.log_fields["prompt_tokens"] = total
    await http.admission.reserve(total)
    # Also what nobody waits for any more.
    http.admission.settle(name, Used(prompt_tokens=total))
    key, timeouts = http.admission.key, context.timeouts
    deadline = context.loop.time() + timeouts.request_s - http.waited_s

    def submit(sequence: Sequence) -> None:
        sequence.fields = {"prompt": "input"}
        prompt = prompts[sequence.index]
        message = Embed(
            id=model.engine.next_id(),
            prompt=b"".join(prompt.parts),
            dimensions=dimensions,
            tenant=key.name,
            weight=key.weight,
            queue_timeout_s=timeouts.queue_s,
            cache_salt=cache_salt(http.admission.scope),
            classify=prompt.classify,
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
