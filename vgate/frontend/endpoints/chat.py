"""``POST /v1/chat/completions``: decode, render, tokenise, submit, answer."""

from __future__ import annotations

import os
import time

import msgspec

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.detokenizer import Detokenizer
from vgate.frontend.disconnect import ClientDisconnected
from vgate.frontend.engine_client import Submission
from vgate.frontend.generation import Answer, StreamedAnswer, WholeAnswer
from vgate.frontend.http import EVENT_STREAM, JSON, HttpRequest, Response
from vgate.frontend.openai.chat import ChatCompletion, Choice, ChunkFrames, Message
from vgate.frontend.openai.requests import ChatRequest, decode_chat, template_messages
from vgate.frontend.services import Services
from vgate.frontend.text_model import TextModel
from vgate.wire.codec import pack_token_ids
from vgate.wire.sampling import SamplingParams, nth_seed

# Longer texts are tokenised on a thread (the tokenizer releases the GIL): 30,000 tokens take tens
# of milliseconds, for which no other stream shall wait.
_TOKENIZE_INLINE_CHARS = 16_384
_STREAM_HEADERS = [EVENT_STREAM, ("cache-control", "no-cache"), ("x-accel-buffering", "no")]


async def chat_completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a chat request; None if the answer was streamed or nobody waits for it."""
    arrived = services.loop.time()
    request = decode_chat(await http.body(services.config.server.max_body_bytes))
    model = services.require_model(request.model)
    # Not before it is known to be ours: whatever else a client sends stays out of the log.
    http.log_fields["model"] = request.model
    prompt = await _tokenize(services, model, request)
    sampling = _sampling(request, model, len(prompt))
    answer = _make_answer(services, http, request, model, prompt)
    http.on_disconnect(answer.give_up)
    try:
        for sequence in answer.sequences:
            submission = _submission(services, prompt, sampling, sequence.index)
            services.engine.submit(submission, sequence)
        await answer.done
    except ClientDisconnected:
        http.log_fields["disconnected"] = True
        return None
    except BaseException as error:
        # Also when a later choice could not be submitted: the earlier ones must not run on.
        services.engine.abort(answer.sequences)
        if isinstance(answer, StreamedAnswer) and answer.started and isinstance(error, Exception):
            # The client has its status; the error went into the stream.
            http.log_fields["error"] = getattr(error, "code", type(error).__name__)
            return None
        raise
    finally:
        http.release()
        _log(http, answer, arrived)
    return _whole_response(answer, model) if isinstance(answer, WholeAnswer) else None


async def _tokenize(services: Services, model: TextModel, request: ChatRequest) -> list[int]:
    if model.template is None:
        message = (
            f"the model `{request.model}` has no chat template; "
            "set model.chat_template to a file with one"
        )
        raise InvalidValueError(message, param="messages")
    text = model.template.render(template_messages(request.messages))
    if len(text) <= _TOKENIZE_INLINE_CHARS:
        return model.encode(text)
    return await services.loop.run_in_executor(None, model.encode, text)


def _sampling(request: ChatRequest, model: TextModel, prompt_tokens: int) -> SamplingParams:
    """Return the complete parameters.

    Raises:
        ContextLengthExceededError: Prompt and requested tokens do not fit.
        InvalidValueError: `min_tokens` alone does not fit.
    """
    limit = model.info.max_model_len
    room = limit - prompt_tokens
    wanted = request.token_limit
    if room < 1 or (wanted or 1) > room:
        asked = f" and {wanted} were requested for the answer" if wanted else ""
        message = (
            f"the model's context is {limit} tokens, but the messages have {prompt_tokens} "
            f"tokens{asked}; shorten the messages or lower `max_tokens`"
        )
        raise ContextLengthExceededError(message, param="messages")
    if (request.min_tokens or 0) > room:
        message = f"`min_tokens` must be at most the {room} tokens left in the model's context"
        raise InvalidValueError(message, param="min_tokens")
    sampling = request.over(model.defaults)
    return msgspec.structs.replace(sampling, max_tokens=wanted or room)


def _submission(
    services: Services, prompt: list[int], sampling: SamplingParams, index: int
) -> Submission:
    if sampling.seed is not None and index:
        # Each choice of a seeded request is another sample, and the same one every time.
        sampling = msgspec.structs.replace(sampling, seed=nth_seed(sampling.seed, index))
    timeouts = services.config.timeouts
    return Submission(
        prompt=pack_token_ids(prompt),
        sampling=sampling,
        tenant="",
        weight=1.0,
        queue_timeout_s=timeouts.queue_s,
        request_timeout_s=timeouts.request_s,
    )


def _make_answer(
    services: Services, http: HttpRequest, request: ChatRequest, model: TextModel, prompt: list[int]
) -> Answer:
    detokenizers = [
        Detokenizer(model.tokenizer, prompt, request.stops, request.min_tokens or 0)
        for _ in range(request.n or 1)
    ]
    loop, abort = services.loop, services.engine.abort
    if not request.stream:
        return WholeAnswer(loop, detokenizers, len(prompt), abort)
    return StreamedAnswer(
        loop,
        detokenizers,
        len(prompt),
        abort,
        frames=ChunkFrames(
            _completion_id(),
            int(time.time()),
            model.info.names[0],
            with_usage=request.include_usage,
        ),
        open_stream=lambda: http.open_stream(_STREAM_HEADERS),
        include_usage=request.include_usage,
    )


def _whole_response(answer: WholeAnswer, model: TextModel) -> Response:
    choices = [
        Choice(index, Message(answer.text(index)), choice.finish_reason or "stop")
        for index, choice in enumerate(answer.choices)
    ]
    completion = ChatCompletion(
        _completion_id(), int(time.time()), model.info.names[0], choices, answer.usage
    )
    return Response(200, msgspec.json.encode(completion), [JSON])


def _completion_id() -> str:
    return f"chatcmpl-{os.urandom(12).hex()}"


def _log(http: HttpRequest, answer: Answer, arrived: float) -> None:
    usage = answer.usage
    http.log_fields["prompt_tokens"] = usage.prompt_tokens
    http.log_fields["completion_tokens"] = usage.completion_tokens
    if answer.first_token_at is not None:
        http.log_fields["ttft_ms"] = round((answer.first_token_at - arrived) * 1000, 1)
