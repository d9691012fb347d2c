"""From a checked chat request to a job: render, tokenise, and hold it against the model.

The chat, responses and messages endpoints all come through here, so they differ in how they say
things and in nothing else.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from functools import partial

import msgspec

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.answers.choice import DecodeOptions, tool_call_id
from vgate.frontend.apis.openai.chat.messages import template_messages
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.chat.response import ChatResponseOptions
from vgate.frontend.apis.openai.chat.template_inputs import client_template, template_kwargs
from vgate.frontend.apis.openai.generation_request import shaping_fields
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.frontend.apis.openai.model_checks import check_against_model, truncated
from vgate.frontend.apis.openai.structured import structured_output
from vgate.frontend.apis.openai.tools import ToolUse, tool_use
from vgate.frontend.cache.digest import covers, digest_of
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http.request import HttpRequest
from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.detect import TOOL_PARSERS
from vgate.frontend.parsing.forced import NamedCall, RequiredCalls
from vgate.frontend.parsing.reasoning import ReasoningParser, initial_state
from vgate.frontend.pipeline import parameters, serving
from vgate.frontend.pipeline.serving import Job, Prompt
from vgate.frontend.services import Services
from vgate.frontend.text.model import TextModel
from vgate.frontend.text.template import ChatTemplate
from vgate.wire.codec import pack_token_ids


class _Asked(msgspec.Struct, frozen=True):
    """A request that is rendered and tokenised.

    Attributes:
        model, adapter, text: What it goes to.
        tools: How it may call tools.
        rendered, prompt: The conversation as text and as token ids.
    """

    model: ServedModel
    adapter: str
    text: TextModel
    tools: ToolUse
    rendered: str
    prompt: list[int]


async def chat_prompt(services: Services, http: HttpRequest, request: ChatRequest) -> list[int]:
    """Return the token ids of a chat request's prompt.

    Raises:
        VGateError: It can't be rendered.
    """
    return (await _asked(services, http, request)).prompt


async def chat_job(
    services: Services, http: HttpRequest, request: ChatRequest, arrived: float
) -> Job:
    """Return what a chat request asks of its model.

    Raises:
        VGateError: It can't be served.
    """
    asked = await _asked(services, http, request)
    sampling = parameters.sampling_of(request, asked.text, [asked.prompt], "messages")
    options = parameters.options_of(
        request,
        asked.text,
        asked.adapter,
        # A response format is for what the model says, and with a demanded call it says nothing.
        asked.tools.structured() or structured_output(request),
    )
    packed = pack_token_ids(asked.prompt)
    digest = b""
    if covers(services.config.cache, sampling):
        # The messages as well as their tokens: a text that imitates the template's markers gives
        # the tokens of another conversation, and still isn't that conversation.
        digest = digest_of(
            "chat",
            asked.model.names[0],
            packed,
            sampling,
            options,
            shaping_fields(request),
        )
    read, write = serving.cache_directives(http)
    return Job(
        model=asked.model,
        text=asked.text,
        name=asked.adapter or asked.model.names[0],
        prompts=[Prompt(asked.prompt, packed)],
        choices_each=request.choices,
        sampling=sampling,
        options=options,
        priority=parameters.priority_of(http, request.priority),
        decoding=_decoding(request, asked),
        digest=digest,
        read_cache=read,
        write_cache=write,
        arrived=arrived,
    )


def chat_options(request: ChatRequest, job: Job) -> ChatResponseOptions:
    """Return what the client of a chat request wants to see."""
    told = job.options.logprobs is not None or job.options.prompt_logprobs is not None
    as_ids = bool(request.return_tokens_as_token_ids)
    return ChatResponseOptions(
        model=job.name,
        include_usage=request.include_usage,
        continuous_usage=request.continuous_usage,
        logprobs=LogprobTexts(job.text.token_texts, as_token_ids=as_ids) if told else None,
        top_logprobs=job.options.logprobs or 0,
        prompt_logprobs=job.options.prompt_logprobs,
        prompt_token_ids=job.prompts[0].token_ids if request.return_token_ids else None,
        prefix=request.echo_text,
        reasons=job.decoding.reasoning is not None,
    )


async def _asked(services: Services, http: HttpRequest, request: ChatRequest) -> _Asked:
    model, adapter = services.model(request.model), services.adapter(request.model)
    # Not before it is known to be ours: whatever else a client sends stays out of the log.
    http.log_fields["model"] = request.model
    text = await model.wait_until_ready()
    parameters.check_task(model, request.model, "generate")
    check_against_model(request, text.info)
    tools = tool_use(request)
    rendered = render_chat(model, text, request, tools)
    if request.add_special_tokens:
        prompt = await services.tokenize(text.encode_special, rendered, len(rendered))
    else:
        prompt = await services.tokenize_rendered(text, rendered)
    prompt = truncated(request, prompt, text.info.max_model_len)
    return _Asked(model, adapter, text, tools, rendered, prompt)


def render_chat(model: ServedModel, text: TextModel, request: ChatRequest, tools: ToolUse) -> str:
    """Return a conversation as the model's template writes it.

    Raises:
        InvalidRequestError: The template can't, or would ignore part of it.
    """
    template = _template(model, text, request, tools)
    return template.render(
        template_messages(request.messages),
        tools=tools.tools,
        documents=request.documents,
        add_generation_prompt=request.generation_prompt,
        continue_final_message=bool(request.continue_final_message),
        kwargs=template_kwargs(request, tools, template),
    )


def _template(
    model: ServedModel, text: TextModel, request: ChatRequest, tools: ToolUse
) -> ChatTemplate:
    """Return the template for a request."""
    if request.chat_template is not None:
        if not model.config.allow_request_chat_template:
            message = (
                "`chat_template` is not allowed by this server; the operator can allow it with "
                "model.allow_request_chat_template"
            )
            raise UnsupportedParameterError(message, param="chat_template")
        return client_template(request.chat_template, text.special_tokens)
    template = text.tool_template if tools.tools else text.template
    if template is None:
        message = (
            f"the model `{request.model}` has no chat template; "
            "set model.chat_template to a file with one"
        )
        raise InvalidValueError(message, param="messages")
    return template


def _decoding(request: ChatRequest, asked: _Asked) -> DecodeOptions:
    """Return how the answer's tokens are read.

    Raises:
        UnsupportedParameterError: It isn't known how the model writes tool calls.
    """
    text, tools = asked.text, asked.tools
    if tools.mode == "auto" and text.tool_parser is None:
        message = (
            f"it is not known how `{request.model}` writes tool calls; set model.tool_parser, or "
            'use `tool_choice` "required"'
        )
        raise UnsupportedParameterError(message, param="tools")
    skip_special_tokens = request.skip_special_tokens is not False
    parser: Callable[[], OutputParser] | None = None
    markers: tuple[str, ...] = ()
    if tools.mode == "named":
        parser = partial(NamedCall, tools.name or "")
    elif tools.mode == "required":
        parser = partial(RequiredCalls, tools.functions, first_call_only=not tools.parallel)
    elif tools.mode == "auto" and text.tool_parser is not None:
        chosen = TOOL_PARSERS[text.tool_parser]
        parser = partial(chosen, tools.functions, first_call_only=not tools.parallel)
        skip_special_tokens = skip_special_tokens and not chosen.needs_special_tokens
        markers = chosen.markers
    reasoning = None
    if text.reasons:
        start = initial_state(asked.rendered)
        # A model may call a tool without having ended its reasoning.
        reasoning = partial(ReasoningParser, start, implicit_ends=markers)
    return DecodeOptions(
        texts=text.known_texts,
        skip_special_tokens=skip_special_tokens,
        stops=request.stops,
        include_stop=bool(request.include_stop_str_in_output),
        min_tokens=request.min_tokens or 0,
        reported_stop_ids=parameters.reported_stop_ids(request, text),
        reasoning=reasoning,
        tools=parser,
        hide_reasoning=not request.shows_reasoning,
        calls_are_stops=tools.mode == "named",
        new_call_id=_mistral_call_id if text.tool_parser == "mistral" else tool_call_id,
        keep_token_ids=bool(request.return_token_ids),
    )


def _mistral_call_id() -> str:
    """Return a name for a tool call that Mistral's templates take: nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
