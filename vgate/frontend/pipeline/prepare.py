"""From a generation to token ids: find its model, check, render, tokenise.

What takes long is done on a thread: 30,000 tokens take tens of milliseconds, for which other
streams would wait.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from vgate.errors import ContextLengthExceededError, InvalidRequestError, InvalidValueError
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest
from vgate.frontend.pipeline import parameters
from vgate.frontend.pipeline.generation import Conversation, Generation, Message, Prompts
from vgate.frontend.pipeline.render import render
from vgate.frontend.text import TextModel, TokenLimit, TooManyTokensError, TooMuchAtOnceError
from vgate.wire.parameters import Task

# What is rendered and tokenised at once, because handing it to a thread costs more.
INLINE_CHARS = 16_384
# Of a model's name that isn't served, in the log.
_MOST_NAME_CHARS = 128

_Encode = Callable[[Generation, TokenLimit], tuple[str, list[int]]]


class TokenizedGeneration(NamedTuple):
    """A generation, its model and its prompts' token ids.

    Attributes:
        rendered: The conversation as text; None without a conversation.
    """

    model: ServedModel
    text: TextModel
    generation: Generation
    rendered: str | None
    prompts: list[list[int]]


def find_model(
    models: ModelRegistry, http: HttpRequest, name: str, tasks: tuple[Task, ...] = ()
) -> ServedModel:
    """Return the model that a request names.

    Without a name it is the first that has one of the tasks. The client is told if a model of
    another name serves its request.

    Raises:
        VGateError: There is no such model.
    """
    served = models.serves(name)
    if name and not served:
        http.log_fields["asked_model"] = name[:_MOST_NAME_CHARS]
    model = models.find(name, tasks, models.allowed(http.admission.key))
    if name and not served:
        http.ignored.add("model")
    http.admission.model = models.answer_name(name, model)
    http.log_fields["model"] = name if served else model.name
    return model


class Tokenization:
    """Tokenises a generation's prompts, in as many attempts as it takes.

    A conversation is rendered in the first one. A prompt that is too long for the model is refused,
    if this `refuses`.
    """

    def __init__(
        self,
        model: ServedModel,
        text: TextModel,
        http: HttpRequest,
        generation: Generation,
        *,
        refuses: bool = True,
    ) -> None:
        self._model = model
        self._text = text
        self._http = http
        self._generation = generation
        self._refuses = refuses
        self._rendered: str | None = None

    def attempt(self, max_new_chars: int | None = None) -> TokenizedGeneration:
        """Return the tokenised generation.

        Raises:
            TooMuchAtOnceError: More than `max_new_chars` characters are not cached.
            VGateError: The model can't serve the generation.
        """
        model, text, generation = self._model, self._text, self._generation
        parameters.check_against_model(generation, text.info)
        most, prompt, rendered = text.info.max_model_len, generation.prompt, None
        param = "prompt" if isinstance(prompt, Prompts) else "messages"
        limit = TokenLimit(most, refuses=True) if self._refuses else None
        if generation.truncation is not None:
            limit = parameters.prompt_limit(generation.truncation, most)
        try:
            if isinstance(prompt, Prompts):
                prompts = _tokenize_prompts(text, prompt, limit, max_new_chars)
            else:
                rendered, tokens = self._tokenize_conversation(prompt, limit, max_new_chars)
                prompts = [tokens]
        except (TooManyTokensError, InvalidValueError) as error:
            raise explained(error, param, most) from None
        if limit is not None and not limit.refuses:
            prompts = [limit.cut(tokens) for tokens in prompts]
        return TokenizedGeneration(model, text, generation, rendered, prompts)

    def _tokenize_conversation(
        self, conversation: Conversation, limit: TokenLimit | None, max_new_chars: int | None
    ) -> tuple[str, list[int]]:
        """Return the conversation as text and as token ids."""
        if self._rendered is None:
            self._rendered = self._render(self._generation)
        rendered = self._rendered
        if not conversation.drop_oldest or limit is None:
            return rendered, self._tokenize(rendered, limit, max_new_chars)
        room = min(self._generation.sampling.max_tokens or 1, limit.keep // 4)
        with suppress(TooManyTokensError):
            shorter = TokenLimit(limit.keep - room, refuses=True)
            tokens = self._tokenize(rendered, shorter, max_new_chars)
            if len(tokens) + room <= limit.keep:
                return rendered, tokens
        if max_new_chars is not None:
            raise TooMuchAtOnceError

        def encode(shorter: Generation, limit: TokenLimit | None) -> tuple[str, list[int]]:
            rendered = self._render(shorter)
            return rendered, self._tokenize(rendered, limit)

        return _drop_oldest(self._generation, limit.keep - room, limit, encode)

    def _render(self, generation: Generation) -> str:
        allow = self._model.config.allow_request_chat_template
        return render(generation, self._text, self._http, allow=allow)

    def _tokenize(
        self, rendered: str, limit: TokenLimit | None, max_new_chars: int | None = None
    ) -> list[int]:
        """Return the token ids of rendered text, unless more of it is new."""
        text, scope = self._text, self._http.admission.scope
        special = self._generation.prompt.add_special_tokens
        if max_new_chars is None:
            check_length(text, rendered, limit)
            if not special:
                return text.tokenizer.encode(rendered, limit, scope)
        elif not special:
            return text.tokenizer.encode_within(rendered, max_new_chars, limit, scope)
        elif len(rendered) > max_new_chars:
            raise TooMuchAtOnceError
        return text.tokenizer.encode_batch([rendered], special=True, limit=limit)[0]


def explained(
    error: TooManyTokensError | InvalidValueError, param: str, most: int, hint: str = ""
) -> InvalidRequestError:
    """Return a tokenizer's refusal of a field's text, or of one of its texts, for the client."""
    if isinstance(error, TooManyTokensError):
        where = param if error.index is None else f"{param}[{error.index}]"
        return ContextLengthExceededError.of_prompt(error.tokens, most, where, hint, at_least=True)
    if error.param is not None:
        return error
    return InvalidValueError(f"`{param}`: {error.message}", param=param)


def check_length(text: TextModel, prompt: str, limit: TokenLimit | None) -> None:
    """Raise `TooManyTokensError` if a text can't have as few tokens as its limit allows."""
    if limit is not None and limit.refuses and len(prompt) > limit.keep:
        least = text.tokenizer.least_tokens(prompt)
        if least > limit.keep:
            limit.stop(least)


def _drop_oldest(
    generation: Generation, most: int, limit: TokenLimit, encode: _Encode
) -> tuple[str, list[int]]:
    """Leave out as few of the oldest turns as let the prompt have at most `most` tokens.

    System messages stay, and so does the last turn, up to the limit.
    """
    assert isinstance(generation.prompt, Conversation)
    messages = generation.prompt.messages
    system = [message for message in messages if message.role == "system"]
    turns = [index for index, message in enumerate(messages) if message.role == "user"]
    fitting: dict[int, tuple[str, list[int]]] = {}
    least, last = 0, max(0, len(turns) - 1)
    while least < last:
        dropped = (least + last) // 2
        tried = None
        with suppress(TooManyTokensError):
            shorter = _without(generation, system, turns[dropped])
            tried = encode(shorter, TokenLimit(most, refuses=True))
        if tried is not None and len(tried[1]) <= most:
            fitting[dropped], last = tried, dropped
        else:
            least = dropped + 1
    if least in fitting:
        return fitting[least]
    start = turns[least] if turns else 0
    return encode(_without(generation, system, start), limit)


def _without(generation: Generation, system: list[Message], start: int) -> Generation:
    conversation = generation.prompt
    assert isinstance(conversation, Conversation)
    kept = [message for message in conversation.messages[start:] if message.role != "system"]
    shorter = msgspec.structs.replace(conversation, messages=[*system, *kept])
    return msgspec.structs.replace(generation, prompt=shorter)


def _tokenize_prompts(
    text: TextModel, given: Prompts, limit: TokenLimit | None, max_new_chars: int | None
) -> list[list[int]]:
    """Return the token ids of prompts, which are all texts or all token ids."""
    texts = [prompt for prompt in given.prompts if isinstance(prompt, str)]
    if not texts:
        return [prompt for prompt in given.prompts if not isinstance(prompt, str)]
    if max_new_chars is None:
        for prompt in texts:
            check_length(text, prompt, limit)
    elif sum(map(len, texts)) > max_new_chars:
        raise TooMuchAtOnceError
    return text.tokenizer.encode_batch(texts, special=given.add_special_tokens, limit=limit)
