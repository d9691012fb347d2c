"""From the inputs of an embed request to prompts."""

from itertools import groupby
from typing import NamedTuple

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.pipeline.parameters import check_truncation, token_limit
from vgate.frontend.pipeline.port import EmbedRequest
from vgate.frontend.pipeline.prepare import check_length, explained
from vgate.frontend.text import TextModel, TokenLimit, TooManyTokensError
from vgate.wire.codec import pack_token_ids
from vgate.wire.parameters import Classify

TOO_LONG_HINT = ", or cut it with `truncate_prompt_tokens`"
_TOKEN_BYTES = 4


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


def limit_of(text: TextModel, request: EmbedRequest) -> TokenLimit:
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
    most, limit = text.info.max_model_len, limit_of(text, request)
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
        check_fits(len(prompt), most, where)
        if not prompt:
            raise InvalidValueError(f"`{where}` has no tokens", param=where)
    how = None if text.info.classes is None else Classify(activation=request.activation)
    return [Prompt((pack_token_ids(prompt),), how) for prompt in prompts]


def _tokens_of_texts(
    text: TextModel, texts: list[str], limit: TokenLimit, request: EmbedRequest
) -> list[list[int]]:
    special = request.add_special_tokens
    if not request.text_limits:
        return tokens_of(text, texts, limit, special=special)
    special_count = len(text.tokenizer.encode_batch([""], special=special)[0])
    prompts: list[list[int]] = []
    # Texts with the same limit follow each other, so there are few groups.
    for text_limit, same in groupby(request.text_limits):
        first = len(prompts)
        group = texts[first : first + len(list(same))]
        group_limit = limit
        if text_limit is not None and text_limit + special_count <= limit.keep:
            group_limit = TokenLimit(text_limit + special_count)
        prompts += tokens_of(text, group, group_limit, special=special, first=first)
    return prompts


def tokens_of(
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
        raise explained(error, where, limit.keep, TOO_LONG_HINT) from None


def check_fits(tokens: int, limit: int, where: str) -> None:
    """Raise `ContextLengthExceededError` if an input has more tokens than the limit."""
    if tokens > limit:
        raise ContextLengthExceededError.of_prompt(tokens, limit, where, TOO_LONG_HINT)
