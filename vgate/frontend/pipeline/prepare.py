"""From a generation to token ids: find its model, check, render, tokenise.

The tokenizer releases the GIL, so long texts are tokenised on a thread: 30,000 tokens take tens of
milliseconds, for which other streams would wait.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.pipeline import parameters
from vgate.frontend.pipeline.generation import Conversation, Generation, Message, Prompts
from vgate.frontend.pipeline.render import render
from vgate.frontend.text import TextModel
from vgate.wire.messages import Task

_INLINE_CHARS = 16_384

_Encode = Callable[[Generation], Awaitable[tuple[str, list[int]]]]
_Text = TypeVar("_Text")
_Result = TypeVar("_Result")


class TokenizedGeneration(NamedTuple):
    """A generation's model and its prompts' token ids.

    Attributes:
        rendered: The conversation as text; None without a conversation.
    """

    model: ServedModel
    text: TextModel
    rendered: str | None
    prompts: list[list[int]]


async def find_model(
    models: ModelRegistry, http: HttpRequest, name: str, task: Task | None = None
) -> tuple[ServedModel, TextModel]:
    """Return the model that a request names, after a short wait for it to be ready.

    Without a name it is the first that has the task. The client is told if a model of another name
    serves its request.

    Raises:
        VGateError: There is no such model, or it isn't ready.
    """
    model = models.find(name, task)
    served = models.serves(name)
    if name and not served:
        http.ignored.add("model")
    # Only names that are served get into the log.
    http.log_fields["model"] = name if served else model.name
    return model, await model.wait_until_ready()


async def tokenize_generation(
    loop: asyncio.AbstractEventLoop,
    models: ModelRegistry,
    http: HttpRequest,
    generation: Generation,
) -> TokenizedGeneration:
    """Find a generation's model, wait until it is ready, and tokenise the prompts.

    Raises:
        VGateError: There is no such model, it isn't ready, or it can't serve the generation.
    """
    model, text = await find_model(models, http, generation.model, "generate")
    parameters.check_task(model, generation.model or model.name, "generate")
    parameters.check_against_model(generation, text.info)
    prompt, rendered = generation.prompt, None
    if isinstance(prompt, Prompts):
        prompts = await _tokenize_prompts(loop, text, prompt)
    else:
        encode = partial(_tokenize_conversation, loop, model, text, http)
        rendered, tokens = await encode(generation)
        room = min(generation.sampling.max_tokens or 1, text.info.max_model_len // 4)
        if prompt.drop_oldest and len(tokens) + room > text.info.max_model_len:
            rendered, tokens = await _drop_oldest(
                generation, text.info.max_model_len - room, encode
            )
        prompts = [tokens]
    if generation.truncation is not None:
        limit = text.info.max_model_len
        prompts = [parameters.truncated(generation.truncation, p, limit) for p in prompts]
    return TokenizedGeneration(model, text, rendered, prompts)


async def _tokenize_conversation(
    loop: asyncio.AbstractEventLoop,
    model: ServedModel,
    text: TextModel,
    http: HttpRequest,
    generation: Generation,
) -> tuple[str, list[int]]:
    """Return a generation's conversation as text and as token ids."""
    rendered = render(generation, text, http, allow=model.config.allow_request_chat_template)
    assert isinstance(generation.prompt, Conversation)
    return rendered, await _tokenize_rendered(loop, text, generation.prompt, rendered)


async def _drop_oldest(
    generation: Generation, limit: int, encode: _Encode
) -> tuple[str, list[int]]:
    """Leave out as few of the oldest turns as let the prompt have at most `limit` tokens.

    System messages stay, and so does the last turn, whatever its length.
    """
    assert isinstance(generation.prompt, Conversation)
    messages = generation.prompt.messages
    system = [message for message in messages if message.role == "system"]
    turns = [index for index, message in enumerate(messages) if message.role == "user"]
    fitting: dict[int, tuple[str, list[int]]] = {}
    least, most = 0, max(0, len(turns) - 1)
    while least < most:
        dropped = (least + most) // 2
        tried = await encode(_without(generation, system, turns[dropped]))
        if len(tried[1]) <= limit:
            fitting[dropped], most = tried, dropped
        else:
            least = dropped + 1
    if least in fitting:
        return fitting[least]
    start = turns[least] if turns else 0
    return await encode(_without(generation, system, start))


def _without(generation: Generation, system: list[Message], start: int) -> Generation:
    conversation = generation.prompt
    assert isinstance(conversation, Conversation)
    kept = [message for message in conversation.messages[start:] if message.role != "system"]
    shorter = msgspec.structs.replace(conversation, messages=[*system, *kept])
    return msgspec.structs.replace(generation, prompt=shorter)


async def tokenize(
    loop: asyncio.AbstractEventLoop, encode: Callable[[_Text], _Result], text: _Text, chars: int
) -> _Result:
    """Return `encode(text)`, computed on a thread if the text is long."""
    if chars <= _INLINE_CHARS:
        return encode(text)
    return await loop.run_in_executor(None, encode, text)


async def _tokenize_rendered(
    loop: asyncio.AbstractEventLoop, text: TextModel, conversation: Conversation, rendered: str
) -> list[int]:
    """Return the token ids of rendered text, on a thread where much of it is new."""
    if conversation.add_special_tokens:
        encode = partial(text.tokenizer.encode_batch, special=True)
        return (await tokenize(loop, encode, [rendered], len(rendered)))[0]
    ids = text.tokenizer.encode_within(rendered, _INLINE_CHARS)
    if ids is None:
        ids = await loop.run_in_executor(None, text.tokenizer.encode, rendered)
    return ids


async def _tokenize_prompts(
    loop: asyncio.AbstractEventLoop, text: TextModel, given: Prompts
) -> list[list[int]]:
    """Return the token ids of prompts, which are all texts or all token ids."""
    texts = [prompt for prompt in given.prompts if isinstance(prompt, str)]
    if not texts:
        return [prompt for prompt in given.prompts if not isinstance(prompt, str)]
    encode = partial(text.tokenizer.encode_batch, special=given.add_special_tokens)
    return await tokenize(loop, encode, texts, sum(map(len, texts)))
