"""From a generation to a job: find its model, render, tokenise, check, complete."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import NamedTuple

from vgate.config.schema import Cache
from vgate.frontend.cache import covers, digest_of
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.pipeline import parameters
from vgate.frontend.pipeline.decoding import decode_options
from vgate.frontend.pipeline.generation import Conversation, Generation, Prompts, shape_of
from vgate.frontend.pipeline.job import EngineJob
from vgate.frontend.pipeline.render import render, template_of
from vgate.frontend.pipeline.tokenizing import tokenize, tokenize_rendered
from vgate.frontend.text import TextModel
from vgate.wire.codec import pack_token_ids


class Tokenised(NamedTuple):
    """A generation with its model at hand, and its prompts as token ids.

    Attributes:
        model, text: The model that serves it, and its text side.
        rendered: The conversation as text; None without a conversation.
        prompts: Token ids of each prompt.
    """

    model: ServedModel
    text: TextModel
    rendered: str | None
    prompts: list[list[int]]


async def find_model(
    models: ModelRegistry, http: HttpRequest, name: str
) -> tuple[ServedModel, TextModel]:
    """Return the model that a request names, waiting a moment for it to be ready.

    Raises:
        VGateError: There is no such model, or it isn't ready.
    """
    model = models.find(name)
    # Not before it is known to be ours: what else clients send stays out of the log.
    http.log_fields["model"] = name
    return model, await model.wait_until_ready()


async def tokenised(
    loop: asyncio.AbstractEventLoop,
    models: ModelRegistry,
    http: HttpRequest,
    generation: Generation,
) -> Tokenised:
    """Find a generation's model, wait until it is ready, and tokenise the prompts.

    Raises:
        VGateError: There is no such model, it isn't ready, or it can't serve the generation.
    """
    model, text = await find_model(models, http, generation.model)
    parameters.check_task(model, generation.model, "generate")
    parameters.check_against_model(generation, text.info)
    rendered = None
    if isinstance(generation.prompt, Conversation):
        rendered = rendered_text(model, text, generation)
        if generation.prompt.add_special_tokens:
            encode = partial(text.tokenizer.encode_batch, special=True)
            prompts = await tokenize(loop, encode, [rendered], len(rendered))
        else:
            prompts = [await tokenize_rendered(loop, text, rendered)]
    else:
        prompts = await _prompts(loop, text, generation.prompt)
    if generation.truncation is not None:
        limit = text.info.max_model_len
        prompts = [parameters.truncated(generation.truncation, p, limit) for p in prompts]
    return Tokenised(model, text, rendered, prompts)


def rendered_text(model: ServedModel, text: TextModel, generation: Generation) -> str:
    """Return a generation's conversation as text.

    Raises:
        InvalidRequestError: There is no template, or it can't or would ignore part of it.
    """
    conversation = generation.prompt
    assert isinstance(conversation, Conversation)
    template = template_of(
        text,
        conversation,
        generation.tools,
        model=generation.model,
        client_allowed=model.config.allow_request_chat_template,
    )
    return render(conversation, generation.tools, template)


def make_job(
    models: ModelRegistry,
    cache: Cache,
    http: HttpRequest,
    generation: Generation,
    ready: Tokenised,
) -> EngineJob:
    """Return the job of a tokenised generation.

    Raises:
        VGateError: It can't be served.
    """
    model, text, rendered, prompts = ready
    adapter = models.adapter(generation.model)
    sampling = parameters.complete_sampling(generation, text, prompts)
    constraint = parameters.constraint_of(generation)
    options = parameters.options_of(generation, text, adapter, constraint)
    packed = [pack_token_ids(prompt) for prompt in prompts]
    digest = b""
    if covers(cache, sampling):
        # The messages as well as their tokens: a text that imitates the template's markers gives
        # the tokens of another conversation, and still isn't that conversation.
        digest = digest_of(model.name, packed, sampling, options, shape_of(generation))
    read, write = _cache_directives(http)
    return EngineJob(
        generation=generation,
        model=model,
        text=text,
        name=adapter or model.name,
        prompts=prompts,
        packed=packed,
        sampling=sampling,
        options=options,
        fields={
            "prompt": "prompt" if rendered is None else "messages",
            "constraint": constraint.field if constraint else "",
        },
        priority=parameters.priority_of(http, generation.priority),
        decoding=decode_options(generation, text, rendered),
        digest=digest,
        read_cache=read,
        write_cache=write,
        created=int(time.time()),
    )


async def _prompts(
    loop: asyncio.AbstractEventLoop, text: TextModel, given: Prompts
) -> list[list[int]]:
    """Return the token ids of prompts: all are texts, or all token ids."""
    texts = [prompt for prompt in given.prompts if isinstance(prompt, str)]
    if not texts:
        return [prompt for prompt in given.prompts if not isinstance(prompt, str)]
    encode = partial(text.tokenizer.encode_batch, special=given.add_special_tokens)
    return await tokenize(loop, encode, texts, sum(map(len, texts)))


def _cache_directives(http: HttpRequest) -> tuple[bool, bool]:
    """Return whether a stored answer may be used and this one stored (RFC 9111, 5.2.1).

    ``no-cache`` asks for a new answer, ``no-store`` for one that isn't kept either.
    """
    header = http.header("cache-control")
    if header is None:
        return True, True
    directives = {part.strip().lower() for part in header.split(",")}
    no_store = "no-store" in directives
    return not (no_store or "no-cache" in directives), not no_store
