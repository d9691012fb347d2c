"""``POST /v1/chat/completions``: decode, render, tokenise, generate, answer."""

from __future__ import annotations

import os
import time

import msgspec

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend import serving
from vgate.frontend.detokenizer import Detokenizer
from vgate.frontend.disconnect import ClientDisconnected
from vgate.frontend.generation import StreamedAnswer, WholeAnswer
from vgate.frontend.http import EVENT_STREAM, JSON, HttpRequest, OpenStream, Response
from vgate.frontend.openai.chat import DONE, ChatCompletion, Choice, ChunkFrames, Message, Usage
from vgate.frontend.openai.requests import (
    ChatRequest,
    decode_chat,
    shaping_fields,
    template_messages,
)
from vgate.frontend.result_cache import CachedAnswer, digest_of
from vgate.frontend.served_model import ServedModel
from vgate.frontend.services import Services
from vgate.frontend.serving import Job
from vgate.frontend.text_model import TextModel
from vgate.wire.codec import pack_token_ids
from vgate.wire.sampling import SamplingParams

_STREAM_HEADERS = [EVENT_STREAM, ("cache-control", "no-cache"), ("x-accel-buffering", "no")]


async def chat_completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a chat request; None if the answer was streamed."""
    arrived = time.monotonic()
    request = decode_chat(await http.body(services.config.server.max_body_bytes))
    model = services.model(request.model)
    # Not before it is known to be ours: whatever else a client sends stays out of the log.
    http.log_fields["model"] = request.model
    job = await _job(services, http, request, model, arrived)
    found = serving.look_up(services, http, job)
    if request.stream:
        await _stream(services, http, request, job, found)
        return None
    if found is None:
        answer = WholeAnswer(
            services.loop, _detokenizers(request, job), len(job.prompt), model.engine.abort
        )
        await serving.run(services, http, job, answer)
        serving.note_sharing(http, answer, job)
        found = answer.result()
    return _whole_response(found, model.names[0])


async def _job(
    services: Services, http: HttpRequest, request: ChatRequest, model: ServedModel, arrived: float
) -> Job:
    text = await model.text_soon()
    if model.config.task != "generate":
        message = f"the model `{request.model}` does not generate text; use /v1/embeddings"
        raise InvalidValueError(message, param="model")
    prompt = await _tokenize(services, text, request)
    sampling = _sampling(request, text, len(prompt))
    packed = pack_token_ids(prompt)
    digest = b""
    if services.cache.covers(sampling):
        config = model.config
        # The messages as well as their tokens: a text that imitates the template's markers gives
        # the tokens of another conversation, and still isn't that conversation.
        digest = digest_of(
            "chat",
            config.model_id,
            config.revision,
            packed,
            sampling,
            shaping_fields(request),
        )
    read, write = serving.cache_directives(http)
    return Job(model, text, prompt, packed, sampling, digest, read, write, arrived)


async def _tokenize(services: Services, model: TextModel, request: ChatRequest) -> list[int]:
    if model.template is None:
        message = (
            f"the model `{request.model}` has no chat template; "
            "set model.chat_template to a file with one"
        )
        raise InvalidValueError(message, param="messages")
    text = model.template.render(template_messages(request.messages))
    return await services.tokenize(model.encode, text, len(text))


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


def _detokenizers(request: ChatRequest, job: Job) -> list[Detokenizer]:
    return [
        Detokenizer(job.text.tokenizer, job.prompt, request.stops, request.min_tokens or 0)
        for _ in range(request.n or 1)
    ]


async def _stream(
    services: Services,
    http: HttpRequest,
    request: ChatRequest,
    job: Job,
    found: CachedAnswer | None,
) -> None:
    frames = ChunkFrames(
        _completion_id(), int(time.time()), job.model.names[0], with_usage=request.include_usage
    )
    if found is not None:
        stream = http.open_stream(_STREAM_HEADERS)
        stream.write(_all_frames(frames, found, include_usage=request.include_usage))
        return
    answer = StreamedAnswer(
        services.loop,
        _detokenizers(request, job),
        len(job.prompt),
        job.model.engine.abort,
        frames=frames,
        open_stream=lambda: _open(http, answer, job),
        include_usage=request.include_usage,
    )
    try:
        await serving.run(services, http, job, answer)
    except ClientDisconnected:
        raise
    except Exception as error:
        if not answer.started:
            raise
        # The client has its status; the error went into the stream.
        http.log_fields["error"] = getattr(error, "code", type(error).__name__)


def _open(http: HttpRequest, answer: StreamedAnswer, job: Job) -> OpenStream:
    serving.note_sharing(http, answer, job)
    return http.open_stream(_STREAM_HEADERS)


def _all_frames(frames: ChunkFrames, answer: CachedAnswer, *, include_usage: bool) -> bytes:
    """Return the events of a stored answer: a chunk a choice, since all of it is there."""
    choices = list(enumerate(answer.choices))
    out = [frames.role(index) for index, _ in choices]
    for index, choice in choices:
        if choice.text:
            out += (frames.prefix(index), msgspec.json.encode(choice.text), frames.suffix)
        out.append(frames.finish(index, choice.finish_reason))
    if include_usage:
        out.append(frames.usage(_usage(answer)))
    return b"".join([*out, DONE])


def _whole_response(answer: CachedAnswer, model: str) -> Response:
    choices = [
        Choice(index, Message(choice.text), choice.finish_reason)
        for index, choice in enumerate(answer.choices)
    ]
    completion = ChatCompletion(_completion_id(), int(time.time()), model, choices, _usage(answer))
    return Response(200, msgspec.json.encode(completion), [JSON])


def _usage(answer: CachedAnswer) -> Usage:
    return Usage.of(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)


def _completion_id() -> str:
    return f"chatcmpl-{os.urandom(12).hex()}"
