"""From a frontend's message to a request of the engine: a different type after the check. Pure."""

from __future__ import annotations

import msgspec

from vgate.engine.request import Request
from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.wire.codec import WireError, unpack_token_ids
from vgate.wire.messages import Embed, Generate, ModelInfo


def to_request(message: Generate | Embed, key: str, model: ModelInfo, now: float) -> Request:
    """Check a message against the model.

    Args:
        message: What a frontend asks for.
        key: The request's name in this engine.
        model: The model that is loaded.
        now: Monotonic seconds.

    Raises:
        InvalidRequestError: The model can't do that.
        WireError: The prompt is no packed token ids, or it has all that it may have already.
    """
    prompt = unpack_token_ids(message.prompt)
    asked = "generate" if isinstance(message, Generate) else "embed"
    if model.task != asked:
        other = f"the model {model.name} can't {asked}, only {model.task}"
        raise InvalidValueError(other, param="model")
    if not prompt:
        empty = "the prompt is empty"
        raise InvalidValueError(empty)
    # A generated sequence needs room for one token more.
    room = model.max_model_len - len(prompt)
    if room < (asked == "generate"):
        too_long = f"the prompt has {len(prompt)} tokens, the limit is {model.max_model_len}"
        raise ContextLengthExceededError(too_long)
    if isinstance(message, Generate):
        max_tokens = min(message.sampling.max_tokens or room, room)
        sampling = msgspec.structs.replace(message.sampling, max_tokens=max_tokens)
        request = Request(key, prompt, sampling)
        request.continued = unpack_token_ids(message.generated)
        request.generated_tokens = len(request.continued)
        if request.generated_tokens >= max_tokens:
            complete = f"{request.generated_tokens} tokens were generated, the most is {max_tokens}"
            raise WireError(complete)
        request.share = message.share
        request.options = message.options
        request.priority = message.priority
    else:
        request = Request(key, prompt, None)
        request.dimensions = message.dimensions
    request.tenant = message.tenant
    request.weight = message.weight
    request.resumed = message.resumed
    request.arrived = now
    request.queue_deadline = now + message.queue_timeout_s
    return request
