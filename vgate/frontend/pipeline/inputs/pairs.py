"""From pairs of texts to the prompts of a model that reads both at once, as vLLM makes them."""

from collections.abc import Iterator
from functools import cache

from msgspec.structs import replace

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.pipeline.inputs.texts import (
    TOO_LONG_HINT,
    Prompt,
    check_fits,
    limit_of,
    tokens_of,
)
from vgate.frontend.pipeline.port import EmbedRequest
from vgate.frontend.text import ChatTemplate, PairTemplate, TextModel, TokenLimit, kept_of_pair
from vgate.wire.codec import pack_token_ids
from vgate.wire.parameters import Classes, Classify

_TOKEN_BYTES = 4
# Joined pairs each have their query, so a small request can become many tokens: at most 32 MiB. A
# text that is cut is looked through up to its end.
_MOST_JOINED_TOKENS = 2**23
_MOST_JOINED_CHARS = 2**25


def pair_prompts(
    text: TextModel, classes: Classes, template: ChatTemplate | None, request: EmbedRequest
) -> list[Prompt]:
    """Return the prompt of each pair, in the order of the second side.

    Args:
        text: The model's text side.
        classes: Its classes.
        template: Renders a pair as a conversation, whose roles are "query" and "document".
        request: The texts of both sides.

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
    most, limit = text.info.max_model_len, limit_of(text, request)
    room = limit.keep - pair.added
    if room < 1 and not limit.refuses:
        message = f"`truncate_prompt_tokens` must be more than the {pair.added} special tokens"
        raise InvalidValueError(f"{message}, got {limit.keep}", param="truncate_prompt_tokens")
    texts = [str(item) for item in request.inputs]
    ids = tokens_of(text, texts, replace(limit, keep=max(0, room)), special=False)
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
            raise ContextLengthExceededError.of_prompt(tokens, most, where, TOO_LONG_HINT)
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
    limit, total, chars = limit_of(text, request), 0, 0
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
        (ids,) = tokens_of(text, [joined], limit, special=True, first=where)
        check_fits(len(ids), text.info.max_model_len, f"input[{where}]")
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
