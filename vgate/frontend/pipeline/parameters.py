"""The parameters of a generation, checked against its model and completed."""

from collections.abc import Iterable

import msgspec

from vgate.config.aliases import Alias
from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.cache import digest_of
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import HttpRequest, Ignored
from vgate.frontend.parsing import ENDS_OF_ANSWER
from vgate.frontend.pipeline.generation import (
    Constraint,
    Conversation,
    Generation,
    Message,
    Prompts,
    Truncation,
)
from vgate.frontend.pipeline.render import EFFORT_VARIABLES
from vgate.frontend.text import TextModel, TokenLimit
from vgate.wire.messages import ModelInfo
from vgate.wire.parameters import (
    MAX_ASKED_TOKENS,
    MOST_TOKEN_IDS,
    ClientOptions,
    GenerateOptions,
    SamplingParams,
    Task,
)

_ENDPOINTS: dict[Task, str] = {
    "generate": "/v1/chat/completions",
    "embed": "/v1/embeddings",
    "classify": "/classify or /v1/rerank",
}
_SAMPLING = SamplingParams.__struct_fields__


def under_alias(alias: Alias | None, generation: Generation, ignored: Ignored) -> Generation:
    """Return a generation with what the alias that it names adds and fixes, if it names one.

    What the client has asked for otherwise is noted in `ignored`.

    Raises:
        InvalidValueError: The alias has a system prompt, and the generation no conversation.
    """
    if alias is None:
        return generation
    prompt = generation.prompt
    if isinstance(prompt, Conversation):
        prompt = _conversation_under(alias, prompt, ignored)
    elif alias.system_prompt is not None:
        message = (
            f"the model `{generation.model}` has a system prompt, for which there is no place "
            f"here; use {_ENDPOINTS['generate']}"
        )
        raise InvalidValueError(message, param="model")
    sampling = _sampling_under(alias, generation.sampling, ignored)
    return msgspec.structs.replace(generation, prompt=prompt, sampling=sampling)


def _sampling_under(alias: Alias, asked: SamplingParams, ignored: Ignored) -> SamplingParams:
    given, locked = asked.given(), alias.locked.given()
    if "max_tokens" in locked:
        locked["max_tokens"] = min(locked["max_tokens"], given.get("max_tokens", MAX_ASKED_TOKENS))
    values = {**alias.defaults.given(), **given, **locked}
    if "max_tokens" in values and "min_tokens" in values:
        values["min_tokens"] = min(values["min_tokens"], values["max_tokens"])
    for name, value in given.items():
        if values[name] != value:
            ignored.add(name)
    return SamplingParams(**{name: values[name] for name in _SAMPLING if name in values})


def _conversation_under(alias: Alias, conversation: Conversation, ignored: Ignored) -> Conversation:
    messages, kwargs = conversation.messages, conversation.template_kwargs
    if alias.system_prompt is not None:
        messages = [Message("system", alias.system_prompt), *messages]
    effort, asked = alias.locked.reasoning_effort, conversation.reasoning_effort
    if effort is not None:
        if asked not in {None, effort}:
            ignored.add("reasoning_effort")
        for name in set(EFFORT_VARIABLES) & kwargs.keys():
            if kwargs[name] != (effort if name == "reasoning_effort" else effort != "none"):
                ignored.add(f"chat_template_kwargs.{name}")
        kwargs = {name: value for name, value in kwargs.items() if name not in EFFORT_VARIABLES}
    elif asked is not None or not kwargs.keys().isdisjoint(EFFORT_VARIABLES):
        effort = asked
    else:
        effort = alias.defaults.reasoning_effort
    return msgspec.structs.replace(
        conversation, messages=messages, reasoning_effort=effort, template_kwargs=kwargs
    )


def dimensions_under(alias: Alias | None, asked: int | None, ignored: Ignored) -> int | None:
    """Return the length of an embedding; an alias may add or fix it, as `under_alias` does."""
    if alias is None:
        return asked
    fixed = alias.locked.dimensions
    if fixed is None:
        return asked or alias.defaults.dimensions
    if asked not in {None, fixed}:
        ignored.add("dimensions")
    return fixed


def check_task(model: ServedModel, name: str, *tasks: Task) -> None:
    """Check that a model serves one of the tasks, if any, or that it isn't known yet what it does.

    Raises:
        InvalidValueError: It serves another one.
    """
    if tasks and model.task is not None and model.task not in tasks:
        what = " or ".join(tasks)
        message = f"the model `{name}` does not {what} text; use {_ENDPOINTS[model.task]}"
        raise InvalidValueError(message, param="model")


def check_against_model(generation: Generation, info: ModelInfo) -> None:
    """Check a generation against the model's vocabulary and limits.

    Raises:
        InvalidValueError: A token is not in the vocabulary, or a value exceeds a limit.
    """
    chat = isinstance(generation.prompt, Conversation)
    if generation.logprobs is not None:
        _check_logprobs("top_logprobs" if chat else "logprobs", generation.logprobs, info)
    if generation.prompt_logprobs is not None:
        _check_logprobs("prompt_logprobs", generation.prompt_logprobs, info)
    check_truncation(generation.truncation, info.max_model_len)
    if not info.vocab_size:
        return
    sampling = generation.sampling
    for name in ("logit_bias", "allowed_token_ids", "stop_token_ids"):
        if ids := getattr(sampling, name):
            _check_ids(ids, info.vocab_size, name)
    if isinstance(generation.prompt, Prompts):
        for index, prompt in enumerate(generation.prompt.prompts):
            if not isinstance(prompt, str):
                _check_ids(prompt, info.vocab_size, f"prompt[{index}]")


def check_truncation(truncation: Truncation | None, limit: int) -> None:
    """Check that a truncation keeps at most `limit` tokens.

    Raises:
        InvalidValueError: It keeps more.
    """
    if truncation is not None and truncation.keep_tokens > limit:
        message = (
            f"`truncate_prompt_tokens` must be at most the model's {limit} tokens, "
            f"got {truncation.keep_tokens}"
        )
        raise InvalidValueError(message, param="truncate_prompt_tokens")


def prompt_limit(truncation: Truncation, max_model_len: int) -> TokenLimit:
    """Return how vLLM cuts a prompt that is to be answered; -1 leaves room for one token."""
    return token_limit(truncation, max(1, max_model_len - 1))


def token_limit(truncation: Truncation, most: int) -> TokenLimit:
    """Return a truncation with its -1 replaced by `most`."""
    keep = truncation.keep_tokens
    return TokenLimit(most if keep < 0 else keep, truncation.side)


def complete_sampling(
    generation: Generation, text: TextModel, prompts: list[list[int]], ignored: Ignored
) -> SamplingParams:
    """Return the sampling parameters, completed by the model's defaults and the room for an answer.

    An answer is at most as long as there is room for, whatever `max_tokens` is.

    Raises:
        ContextLengthExceededError: The longest prompt leaves no room for an answer.
        InvalidValueError: `min_tokens` alone does not fit, a prompt is empty, or there are too many
            stop tokens with the model's own.
    """
    sampling, chat = generation.sampling, isinstance(generation.prompt, Conversation)
    param = "messages" if chat else "prompt"
    limit = text.info.max_model_len
    longest = max(map(len, prompts))
    room = limit - longest
    if room < 1:
        raise ContextLengthExceededError.of_prompt(longest, limit, param)
    wanted = sampling.max_tokens or text.defaults.max_tokens or room
    if isinstance(generation.prompt, Prompts) and generation.prompt.only:
        # The engine generates at least one token; it is dropped.
        wanted = 1
    elif (sampling.max_tokens or 0) > room:
        ignored.add("max_tokens")
    if not all(prompts):
        message = f"`{param}` must have at least one token"
        raise InvalidValueError(message, param=param)
    if (sampling.min_tokens or 0) > room:
        message = f"`min_tokens` must be at most the {room} tokens left in the model's context"
        raise InvalidValueError(message, param="min_tokens")
    if chat and text.marks and not sampling.ignore_eos:
        sampling = _ending_as_harmony(sampling, text)
    return sampling.over(text.defaults, max_tokens=min(wanted, room))


def _ending_as_harmony(sampling: SamplingParams, text: TextModel) -> SamplingParams:
    """Return parameters with which both tokens that end an answer of gpt-oss do so.

    Its generation_config.json should name them, but copies of the model lack it, and
    `model.generation_config` may leave it out.

    Raises:
        InvalidValueError: There are too many with them.
    """
    ends = {text.tokenizer.token_to_id(token) for token in ENDS_OF_ANSWER}
    asked = sampling.stop_token_ids or []
    missing = sorted(token for token in ends if token is not None and token not in asked)
    if len(asked) + len(missing) > MOST_TOKEN_IDS:
        # The engine's messages hold no more.
        message = (
            f"`stop_token_ids` must have at most {MOST_TOKEN_IDS - len(missing)} tokens for this "
            "model, whose own ends of an answer are added"
        )
        raise InvalidValueError(message, param="stop_token_ids")
    return msgspec.structs.replace(sampling, stop_token_ids=[*asked, *missing])


def options_of(
    generation: Generation, text: TextModel, adapter: str, constraint: Constraint | None, scope: str
) -> GenerateOptions:
    """Return the options that the engine needs in addition to the sampling parameters.

    Requests of different scopes never have equal options, so they share nothing.
    """
    structured = None
    if constraint is not None:
        # Without a conversation all that is generated is text, so the constraint is for all of it.
        chat, output = isinstance(generation.prompt, Conversation), constraint.output
        harmony = (output.harmony or {}) if chat and text.marks else None
        structured = msgspec.structs.replace(
            output, after_reasoning=text.reasons and chat, harmony=harmony
        )
    client = {name: getattr(generation, name) for name in ClientOptions.__struct_fields__}
    for name in ("logprobs", "prompt_logprobs"):
        if client[name] == -1:
            client[name] = text.info.vocab_size or text.info.max_logprobs
    client["cache_salt"] = cache_salt(scope, generation.cache_salt)
    return GenerateOptions(
        text.encode_bad_words(generation.bad_words), structured, adapter, **client
    )


def cache_salt(scope: str, chosen: str = "") -> str:
    """Return the salt of a prompt's prefixes: the one that the client chose, within its scope."""
    return digest_of(scope, chosen).hex()[:32] if scope else chosen


def priority_of(http: HttpRequest, priority: int | None) -> int:
    """Return a request's priority.

    Raises:
        InvalidValueError: It is more urgent than the API key allows.
    """
    least: int = http.admission.key.min_priority
    if priority is None:
        return max(0, least)
    if priority < least:
        message = (
            f"`priority` must be at least {least} for this API key, got {priority}; "
            "lower starts sooner"
        )
        raise InvalidValueError(message, param="priority")
    return priority


def _check_logprobs(name: str, value: int, info: ModelInfo) -> None:
    # -1 stands for all of the vocabulary.
    if value > info.max_logprobs or (value < 0 and info.max_logprobs < info.vocab_size):
        message = f"`{name}` must be at most {info.max_logprobs} for this model, got {value}"
        raise InvalidValueError(message, param=name)


def _check_ids(ids: Iterable[int], vocab_size: int, where: str) -> None:
    highest = max(ids, default=0)
    if highest >= vocab_size:
        message = f"`{where}` has the token id {highest}, but the model's are below {vocab_size}"
        raise InvalidValueError(message, param=where)
