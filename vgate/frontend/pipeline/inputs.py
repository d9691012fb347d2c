"""The prompts of an embed request: of single inputs, or of pairs that a model reads at once."""

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import NamedTuple

from msgspec.structs import replace

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.pipeline.parameters import check_truncation, token_limit
from vgate.frontend.pipeline.port import EmbedRequest
from vgate.frontend.pipeline.prepare import check_length, explained
from vgate.frontend.text import (
    ChatTemplate,
    PairTemplate,
    TextModel,
    TokenLimit,
    TooManyTokensError,
    kept_of_pair,
)
from vgate.wire.codec import pack_token_ids
from vgate.wire.parameters import Classes, Classify

_TOO_LONG_HINT = ", or cut it with `truncate_prompt_tokens`"
_TOKEN_BYTES = 4
# Joined pairs each have their query, so a small request can become many tokens: at most 32 MiB. A
# text that is cut is looked through up to its end.
_MOST_JOINED_TOKENS = 2**23
_MOST_JOINED_CHARS = 2**25


class Prompt(NamedTuple):
    """The packed token ids of one input, in parts: what pairs have in common is there once.

    `classify`: how the model classifies it; None if it embeds it.
    """

    parts: tuple[bytes | memoryview, ...]
    classify: Classify | None = None

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return sum(map(len, self.parts)) // _TOKEN_BYTES


def _limit_of(text: TextModel, request: EmbedRequest) -> TokenLimit:
    """Return how many tokens an input may have, or is cut to.

    Raises:
        InvalidValueError: More than the model takes.
    """
    most = text.info.max_model_len
    check_truncation(request.truncation, most)
    if request.truncation is None:
        return TokenLimit(most, refuses=True)
    return token_limit(request.truncation, most)


def prompts_of_inputs(text: TextModel, request: EmbedRequest) -> list[Prompt]:
    """Return the prompt of each input.

    Raises:
        InvalidValueError: A token id is unknown, or an input has no tokens.
        ContextLengthExceededError: An input is too long.
    """
    most, limit = text.info.max_model_len, _limit_of(text, request)
    texts = [item for item in request.inputs if isinstance(item, str)]
    if texts:
        prompts = _tokens_of_texts(text, texts, limit, request)
    else:
        prompts = [item for item in request.inputs if not isinstance(item, str)]
        for index, prompt in enumerate(prompts):
            text.check_token_ids(prompt, f"input[{index}]")
        if not limit.refuses:
            prompts = [limit.cut(prompt) for prompt in prompts]
    for index, prompt in enumerate(prompts):
        where = f"input[{index}]"
        _check_fits(len(prompt), most, where)
        if not prompt:
            raise InvalidValueError(f"`{where}` has no tokens", param=where)
    how = None if text.info.classes is None else Classify(activation=request.activation)
    return [Prompt((pack_token_ids(prompt),), how) for prompt in prompts]


def _tokens_of_texts(
    text: TextModel, texts: list[str], limit: TokenLimit, request: EmbedRequest
) -> list[list[int]]:
    special = request.add_special_tokens
    if not request.text_limits:
        return _tokens_of(text, texts, limit, special=special)
    special_count = len(text.tokenizer.encode_batch([""], special=special)[0])
    prompts: list[list[int]] = []
    # Texts with the same limit follow each other, so there are few groups.
    for text_limit, same in groupby(request.text_limits):
        first = len(prompts)
        group = texts[first : first + len(list(same))]
        group_limit = limit
        if text_limit is not None and text_limit + special_count <= limit.keep:
            group_limit = TokenLimit(text_limit + special_count)
        prompts += _tokens_of(text, group, group_limit, special=special, first=first)
    return prompts


def _tokens_of(
    text: TextModel, texts: list[str], limit: TokenLimit, *, special: bool, first: int | None = None
) -> list[list[int]]:
    """Return the token ids of texts.

    `first` is the index of the first text among the request's inputs, for errors; None if these are
    all inputs.
    """
    where = "input"
    try:
        for index, item in enumerate(texts, first or 0):
            where = f"input[{index}]"
            check_length(text, item, limit)
        where = "input" if first is None or len(texts) > 1 else where
        return text.tokenizer.encode_batch(texts, special=special, limit=limit)
    except (TooManyTokensError, InvalidValueError) as error:
        if isinstance(error, TooManyTokensError) and error.index is not None:
            error.index += first or 0
        raise explained(error, where, limit.keep, _TOO_LONG_HINT) from None


def _check_fits(tokens: int, limit: int, where: str) -> None:
    """Raise `ContextLengthExceededError` if an input has more tokens than the limit."""
    if tokens > limit:
        raise ContextLengthExceededError.of_prompt(tokens, limit, where, _TOO_LONG_HINT)


def pair_prompts(
    text: TextModel, classes: Classes, template: ChatTemplate | None, request: EmbedRequest
) -> list[Prompt]:
    """Return the prompt of each pair, in the order of the second side, as vLLM makes them.

    The template renders a pair as a conversation, whose roles are "query" and "document".

    Raises:
        InvalidValueError: The model has no scores, all pairs together are too much, or a text may
            have as many tokens as the context.
        ContextLengthExceededError: A pair is too long.
    """
    if len(classes.labels) != 1:
        message = (
            f"the model `{request.model or text.info.name}` tells {len(classes.labels)} classes "
            "apart and gives no score; use /classify"
        )
        raise InvalidValueError(message, param="model")
    inputs, most = list(request.inputs), text.info.max_model_len
    for index, tokens in enumerate(request.text_limits):
        if tokens is not None:
            if tokens >= most:
                side = "query" if index < request.first_count else "doc"
                message = f"`max_tokens_per_{side}` must be less than {most}, got {tokens}"
                raise InvalidValueError(message, param=f"max_tokens_per_{side}")
            inputs[index] = text.tokenizer.first_tokens(str(inputs[index]), tokens)
    request = replace(request, inputs=inputs)
    if template is not None or classes.joined:
        return list(_joined(text, template, request))
    return list(_separated(text, text.tokenizer.pair, request, types=classes.token_types))


def _separated(
    text: TextModel, pair: PairTemplate, request: EmbedRequest, *, types: bool
) -> Iterator[Prompt]:
    """Yield prompts with the tokenizer's special tokens. Those of a shared query share its ids."""
    most, limit = text.info.max_model_len, _limit_of(text, request)
    room = limit.keep - pair.added
    if room < 1 and not limit.refuses:
        message = f"`truncate_prompt_tokens` must be more than the {pair.added} special tokens"
        raise InvalidValueError(f"{message}, got {limit.keep}", param="truncate_prompt_tokens")
    texts = [str(item) for item in request.inputs]
    ids = _tokens_of(text, texts, replace(limit, keep=max(0, room)), special=False)
    packed = [memoryview(pack_token_ids(tokens)) for tokens in ids]
    before, between, after = map(pack_token_ids, (pair.before, pair.between, pair.after))
    count = request.first_count
    # With a limit of its own, only the second text is cut further, as in vLLM.
    only_second = any(request.text_limits[count:])
    counted = cache(
        lambda index: len(text.tokenizer.encode_batch([texts[index]], special=False)[0])
    )
    for index in range(count, len(packed)):
        of_first = 0 if count == 1 else index - count
        one, other = packed[of_first], packed[index]
        lengths = len(one) // _TOKEN_BYTES, len(other) // _TOKEN_BYTES
        if lengths == (room, room) and not limit.refuses:
            # Both were cut already, and the longer one gets an odd token.
            lengths = counted(of_first), counted(index)
        first, second = kept_of_pair(*lengths, room)
        if only_second:
            first, second = lengths[0], max(0, min(lengths[1], room - lengths[0]))
        if (only_second and second < min(1, lengths[1])) or (
            limit.refuses and (first, second) != lengths
        ):
            tokens = sum(lengths) + pair.added
            where = f"input[{of_first if lengths[0] > room else index}]"
            raise ContextLengthExceededError.of_prompt(tokens, most, where, _TOO_LONG_HINT)
        at = None
        if types and pair.second_from is not None:
            at = len(pair.before) + first + pair.second_from
        parts = (before, _cut(one, first, limit), between, _cut(other, second, limit), after)
        yield Prompt(parts, Classify(at, request.activation))


def _cut(packed: memoryview, tokens: int, limit: TokenLimit) -> memoryview:
    size = tokens * _TOKEN_BYTES
    return packed[:size] if limit.side == "right" else packed[len(packed) - size :]


def _joined(
    text: TextModel, template: ChatTemplate | None, request: EmbedRequest
) -> Iterator[Prompt]:
    """Yield prompts that are one text each: both texts, or what the template makes of them."""
    limit, total, chars = _limit_of(text, request), 0, 0
    texts, count = [str(item) for item in request.inputs], request.first_count
    for where, other in enumerate(texts[count:], count):
        one = texts[0 if count == 1 else where - count]
        joined = one + other
        if template is not None:
            messages = [{"role": "query", "content": one}, {"role": "document", "content": other}]
            joined = template.render(
                messages, add_generation_prompt=False, kwargs=request.template_kwargs
            )
        chars += len(joined)
        _check_total(chars, _MOST_JOINED_CHARS, "characters", where)
        (ids,) = _tokens_of(text, [joined], limit, special=True, first=where)
        _check_fits(len(ids), text.info.max_model_len, f"input[{where}]")
        total += len(ids)
        _check_total(total, _MOST_JOINED_TOKENS, "tokens", where)
        yield Prompt((pack_token_ids(ids),), Classify(activation=request.activation))


def _check_total(total: int, most: int, what: str, index: int) -> None:
    if total > most:
        message = (
            f"all pairs together must have at most {most} {what} for this model, whose pairs each "
            "have the query; send fewer texts at a time"
        )
        raise InvalidValueError(message, param=f"input[{index}]")
