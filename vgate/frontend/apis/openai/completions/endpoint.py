"""``POST /v1/completions``: prompts as text or token ids, without a conversation."""

from __future__ import annotations

import time

import msgspec

from vgate.frontend.answers.choice import DecodeOptions
from vgate.frontend.apis.openai.completions.request import CompletionRequest, decode_completion
from vgate.frontend.apis.openai.completions.response import (
    CompletionEncoder,
    CompletionResponseOptions,
)
from vgate.frontend.apis.openai.generation_request import shaping_fields
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.frontend.apis.openai.model_checks import check_against_model, truncated
from vgate.frontend.apis.openai.structured import structured_output
from vgate.frontend.cache.digest import covers, digest_of
from vgate.frontend.http.request import HttpRequest, Response
from vgate.frontend.pipeline import parameters, serving
from vgate.frontend.pipeline.serving import Job, Prompt
from vgate.frontend.services import Services
from vgate.frontend.text.model import TextModel
from vgate.wire.codec import pack_token_ids
from vgate.wire.sampling import SamplingParams


async def completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a completion request; None if the answer was streamed."""
    arrived = time.monotonic()
    request = decode_completion(await http.body(services.config.server.max_body_bytes))
    model = services.model(request.model)
    http.log_fields["model"] = request.model
    text = await model.wait_until_ready()
    parameters.check_task(model, request.model, "generate")
    check_against_model(request, text.info)
    prompts = await _tokenize(services, text, request)
    job = _job(services, http, request, text, prompts, arrived)
    encoder = CompletionEncoder(_form(request, job))
    return await serving.serve(services, http, job, encoder, stream=bool(request.stream))


async def _tokenize(
    services: Services, text: TextModel, request: CompletionRequest
) -> list[list[int]]:
    """Return the token ids of each prompt."""
    texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
    prompts = [prompt for prompt in request.prompts if not isinstance(prompt, str)]
    if texts:
        encode = text.encode_texts if request.add_special_tokens is False else text.encode_plain
        prompts = await services.tokenize(encode, texts, sum(map(len, texts)))
    return [truncated(request, prompt, text.info.max_model_len) for prompt in prompts]


def _job(
    services: Services,
    http: HttpRequest,
    request: CompletionRequest,
    text: TextModel,
    prompts: list[list[int]],
    arrived: float,
) -> Job:
    model, adapter = services.model(request.model), services.adapter(request.model)
    sampling = _sampling(request, text, prompts)
    options = parameters.options_of(request, text, adapter, structured_output(request))
    packed = [pack_token_ids(prompt) for prompt in prompts]
    digest = b""
    if covers(services.config.cache, sampling):
        digest = digest_of(
            "completion",
            model.names[0],
            packed,
            sampling,
            options,
            shaping_fields(request),
        )
    read, write = serving.cache_directives(http)
    return Job(
        model=model,
        text=text,
        name=adapter or model.names[0],
        prompts=[Prompt(*both) for both in zip(prompts, packed, strict=True)],
        choices_each=request.choices,
        sampling=sampling,
        options=options,
        priority=parameters.priority_of(http, request.priority),
        decoding=_decoding(request, text),
        digest=digest,
        read_cache=read,
        write_cache=write,
        arrived=arrived,
    )


def _sampling(
    request: CompletionRequest, text: TextModel, prompts: list[list[int]]
) -> SamplingParams:
    if not request.token_limit:
        # Only the prompt is wanted back. The engine gives at least one token; it is thrown away.
        request = msgspec.structs.replace(request, max_tokens=1)
    return parameters.sampling_of(request, text, prompts, "prompt")


def _decoding(request: CompletionRequest, text: TextModel) -> DecodeOptions:
    return DecodeOptions(
        texts=text.known_texts,
        skip_special_tokens=request.skip_special_tokens is not False,
        stops=request.stops,
        include_stop=bool(request.include_stop_str_in_output),
        min_tokens=request.min_tokens or 0,
        reported_stop_ids=parameters.reported_stop_ids(request, text),
        keep_token_ids=bool(request.return_token_ids),
        prompt_only=not request.token_limit,
    )


def _form(request: CompletionRequest, job: Job) -> CompletionResponseOptions:
    told = job.options.logprobs is not None or job.options.prompt_logprobs is not None
    as_ids = bool(request.return_tokens_as_token_ids)
    return CompletionResponseOptions(
        model=job.name,
        choices_each=job.choices_each,
        prompts=[prompt.token_ids for prompt in job.prompts],
        echo=_texts(request, job) if request.echo else None,
        include_usage=request.include_usage,
        continuous_usage=request.continuous_usage,
        texts=LogprobTexts(job.text.token_texts, as_token_ids=as_ids) if told else None,
        logprobs=job.options.logprobs,
        prompt_logprobs=request.prompt_logprobs,
        return_token_ids=bool(request.return_token_ids),
    )


def _texts(request: CompletionRequest, job: Job) -> list[str]:
    """Return the prompts as text."""
    skip_special_tokens = job.decoding.skip_special_tokens
    return [
        given
        if isinstance(given, str) and request.truncate_prompt_tokens is None
        else job.text.tokenizer.decode(prompt.token_ids, skip_special_tokens=skip_special_tokens)
        for given, prompt in zip(request.prompts, job.prompts, strict=True)
    ]
