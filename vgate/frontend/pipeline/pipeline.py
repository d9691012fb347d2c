"""The pipeline that serves generations with this process's models, cache and limits."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from vgate.config.schema import Config
from vgate.errors import InvalidValueError
from vgate.frontend.answers.keep_alive import KeepAlive
from vgate.frontend.answers.resumable import Readers
from vgate.frontend.cache import ResultStore
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest, LongWork, Response, emptied
from vgate.frontend.pipeline.embed import embed, embed_window
from vgate.frontend.pipeline.generation import Generation
from vgate.frontend.pipeline.inputs import pair_prompts, prompts_of_inputs
from vgate.frontend.pipeline.job import EngineJob, again, make_job
from vgate.frontend.pipeline.overview.running import RunningRequests
from vgate.frontend.pipeline.parameters import check_task, dimensions_under, under_alias
from vgate.frontend.pipeline.port import (
    Embedded,
    EmbedRequest,
    GenerateRequest,
    Read,
    TokenizerInfo,
    Tokens,
    Traits,
)
from vgate.frontend.pipeline.prepare import INLINE_CHARS, Tokenization, find_model
from vgate.frontend.pipeline.recent import RecentRequest, RecentRequests
from vgate.frontend.pipeline.render import render, sets_effort
from vgate.frontend.pipeline.serve import Context, look_up, serve
from vgate.frontend.pipeline.taking_up import claimed, not_found
from vgate.frontend.pipeline.waiting.streams import Notices
from vgate.frontend.pipeline.waiting.visit import text_of
from vgate.frontend.text import TextModel, TooMuchAtOnceError
from vgate.wire.parameters import Task

# To make a prompt of a pair takes some 6 us, and to tokenise so many characters as well.
_PAIR_CHARS = 16

_Result = TypeVar("_Result")

# Four turns take less than the same on a thread, with which the loop shares the interpreter.
_INLINE_TURNS = 4
# Millions of spellings make an answer that takes tens of milliseconds to send.
_MOST_SPELLED = 1_048_576


class EnginePipeline:
    """Implements `vgate.frontend.pipeline.port.Pipeline`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        models: ModelRegistry,
        cache: ResultStore,
        work: LongWork,
        running: RunningRequests,
    ) -> None:
        self._work = work
        self._models = models
        self._cache = config.cache
        quiet_s, replay_s = config.server.stream_keepalive_s, config.server.replay_s
        told = KeepAlive(loop, quiet_s), Notices(loop, quiet_s)
        self._context = Context(
            loop, config.timeouts, cache, *told, replay_s, work, running, Readers(loop)
        )
        self._window = embed_window(config.batch)
        self._recent = RecentRequests()
        for model in models:
            model.on_dropped = self._recent.forget
        self._max_choices = config.server.max_choices

    async def answer(self, http: HttpRequest, request: GenerateRequest) -> Response | None:
        """Answer a request; None if the answer was streamed."""
        http.streams = request.stream
        job = await self._job(http, request.generation)
        found = None
        if http.taken_up is None:
            found = await look_up(self._context, http, job)
        else:
            begun = http.taken_up.request
            job = msgspec.structs.replace(job, created=begun.created, asked_id=begun.asked_id)
        return await serve(self._context, http, job, request, found)

    async def answer_body(self, http: HttpRequest, body: bytes, read: Read) -> Response | None:
        """Answer the request that `read` makes of a body; None if the answer was streamed."""
        if http.taken_up is not None:
            return await self.answer(http, await self._work.read(http, body, read))
        recent = self._recent.find(read, http.admission.scope, body)
        if recent is not None and recent.is_current(await self._text(http, recent.request)):
            request, job = recent.request, again(recent.job, http)
            for name in recent.ignored:
                http.ignored.add(name)
            found = await look_up(self._context, http, job)
        else:
            request = await self._work.read(http, body, read)
            http.streams = request.stream
            job = await self._job(http, request.generation)
            found = await look_up(self._context, http, job)
            if found is not None:
                told = tuple(http.ignored.names)
                recent = RecentRequest(request, job, job.text.info, told)
                self._recent.keep(read, http.admission.scope, body, recent)
        return await serve(self._context, http, job, request, found)

    async def take_up(self, http: HttpRequest, stream: str, received: tuple[int, ...]) -> None:
        """Let a request go on with the stream that its client has lost."""
        await http.discard_body()
        found = await claimed(http, self._models, stream, self._context.replay_s)
        if found.request.path != http.path:
            raise not_found()
        http.taken_up = msgspec.structs.replace(found, received=received)

    async def _text(self, http: HttpRequest, request: GenerateRequest) -> TextModel:
        http.streams = request.stream
        return (await self._find(http, request.generation.model, "generate"))[1]

    async def _find(
        self, http: HttpRequest, name: str, *tasks: Task
    ) -> tuple[ServedModel, TextModel]:
        """Return the model that a request names, once this worker has its text side."""
        model = find_model(self._models, http, name, tasks)
        # Before a model is loaded in vain.
        check_task(model, name or model.name, *tasks)
        text = await text_of(self._context, http, model)
        # Of some models only an engine knows what they do.
        check_task(model, name or model.name, *tasks)
        return model, text

    async def _job(self, http: HttpRequest, generation: Generation) -> EngineJob:
        if generation.choices > self._max_choices:
            message = f"`n` must be at most {self._max_choices} (server.max_choices)"
            raise InvalidValueError(message, param="n")
        tokenization = await self._tokenization(http, generation)

        def job(max_new_chars: int | None) -> EngineJob:
            tokenized = tokenization.attempt(max_new_chars)
            return make_job(self._models, self._cache, http, tokenized)

        return await self._prepared(http, job)

    async def count_tokens(self, http: HttpRequest, generation: Generation) -> int:
        """Return how many tokens a generation's only prompt has, and generate nothing."""
        tokenization = await self._tokenization(http, generation, refuses=False)

        def counted(max_new_chars: int | None) -> int:
            tokenized = tokenization.attempt(max_new_chars)
            # Freed here, as that takes long if they are millions.
            return sum(map(len, emptied(tokenized.prompts[0])))

        return await self._prepared(http, counted)

    async def _tokenization(
        self, http: HttpRequest, generation: Generation, *, refuses: bool = True
    ) -> Tokenization:
        model, text = await self._find(http, generation.model, "generate")
        generation = under_alias(self._models.alias(generation.model), generation, http.ignored)
        return Tokenization(model, text, http, generation, refuses=refuses)

    async def _prepared(
        self, http: HttpRequest, prepare: Callable[[int | None], _Result]
    ) -> _Result:
        """Return what `prepare` makes; it gets the most characters that it may tokenise.

        The parts of a text that is a little longer are tokenised in a few turns.
        """
        for turn in range(_INLINE_TURNS if http.is_short else 0):
            if turn:
                await self._work.turns.begin(http.admission.key.name)
            try:
                return prepare(INLINE_CHARS)
            except TooMuchAtOnceError as error:
                if not error.less_is_left:
                    break
        return await self._work.run(http, partial(prepare, None))

    async def _tokenised(
        self, http: HttpRequest, chars: int, work: Callable[[], _Result]
    ) -> _Result:
        """Return the result of work that tokenises so many characters."""
        if chars > INLINE_CHARS:
            return await self._work.run(http, work)
        return await self._work.done(http, work)

    async def embed(self, http: HttpRequest, request: EmbedRequest) -> Embedded:
        """Embed texts, or classify them or pairs of them."""
        model, text = await self._find(http, request.model, *request.tasks)
        alias, classes = self._models.alias(request.model), text.info.classes
        dimensions = dimensions_under(alias, request.dimensions, http.ignored)
        chars = sum(len(item) for item in request.inputs if isinstance(item, str))
        work, template = partial(prompts_of_inputs, text, request), None
        if classes is not None and request.first_count:
            template = text.template if model.config.chat_template else None
            work = partial(pair_prompts, text, classes, template, request)
            # Each may have the query, and takes at least as long as a few characters.
            chars += len(request.inputs) * (len(request.inputs[0]) + _PAIR_CHARS)
        prompts = await self._tokenised(http, chars, work)
        vectors = await embed(self._context, http, model, prompts, dimensions, self._window)
        return Embedded(
            http.admission.model,
            sum(prompt.tokens for prompt in prompts),
            vectors,
            None if classes is None else classes.labels,
            template is not None,
        )

    async def tokenize(
        self,
        http: HttpRequest,
        model: str,
        prompt: str | Generation,
        *,
        add_special_tokens: bool,
        spell: bool,
    ) -> Tokens:
        """Return the tokens of a text, or of a generation's conversation."""
        served, text = await self._find(http, model)
        allow = served.config.allow_request_chat_template
        if not isinstance(prompt, str):
            prompt = under_alias(self._models.alias(model), prompt, http.ignored)

        def tokens() -> Tokens:
            source = prompt
            if not isinstance(source, str):
                source = render(source, text, http, allow=allow)
            (ids,) = text.tokenizer.encode_batch([source], special=add_special_tokens)
            if spell and len(ids) > _MOST_SPELLED:
                # Freed here, not with the error on the loop.
                limit = f"at most {_MOST_SPELLED} tokens, got {sum(map(len, emptied(ids)))}"
                message = f"`return_token_strs` is possible for {limit}"
                raise InvalidValueError(message, param="return_token_strs")
            spellings = [text.tokenizer.id_to_token(token) for token in ids] if spell else None
            return Tokens(ids, spellings, text.info.max_model_len)

        return await self._tokenised(http, _chars_of(prompt), tokens)

    async def detokenize(self, http: HttpRequest, model: str, tokens: list[int]) -> str:
        """Return the text of token ids, special tokens included."""
        _, text = await self._find(http, model)

        def decoded() -> str:
            text.check_token_ids(tokens, "tokens")
            return text.tokenizer.decode_many(tokens, skip_special_tokens=False)

        return await self._work.done(http, decoded)

    async def tokenizer_info(self, http: HttpRequest, model: str) -> TokenizerInfo:
        """Return a model's special tokens and chat template."""
        _, text = await self._find(http, model)
        template = None if text.template is None else text.template.source
        return TokenizerInfo(
            text.info.max_model_len, text.tokenizer_class, template, **text.special_tokens
        )

    async def traits(self, http: HttpRequest, model: str, *, with_tools: bool) -> Traits:
        """Return a model's traits; with tools it may have another template."""
        allowed = self._models.allowed(http.admission.key)
        found = self._models.find(model, ("generate",), allowed)
        text = await text_of(self._context, http, found)
        template = text.tool_template if with_tools else text.template
        adjustable = template is not None and sets_effort(template)
        return Traits(adjustable, text.reasons, always_reasons=bool(text.marks))


def _chars_of(prompt: str | Generation) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    messages = getattr(prompt.prompt, "messages", ())
    return sum(len(message.content) for message in messages)
