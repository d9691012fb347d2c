"""Token ids that a client sends instead of text."""

from __future__ import annotations

from vgate.errors import InvalidValueError
from vgate.frontend.text.model import TextModel


def check_token_ids(text: TextModel, tokens: list[int], param: str) -> None:
    """Refuse ids that the model has no embedding for; some engines would die of one.

    Models often have more embeddings than their tokenizer has tokens, so the engine's word counts;
    where it gave none, what the tokenizer can spell.

    Raises:
        InvalidValueError: With the first such id's place in `param`.
    """
    size = text.info.vocab_size or text.tokenizer.get_vocab_size(with_added_tokens=True)
    if not tokens or max(tokens) < size:
        return
    for index, token in enumerate(tokens):
        if token < size:
            continue
        # Ids of added tokens may leave gaps, and then lie above the number of tokens.
        if not text.info.vocab_size and text.tokenizer.id_to_token(token) is not None:
            continue
        where = f"{param}[{index}]"
        message = f"`{where}` must be a token id of the model, 0 to {size - 1}, got {token}"
        raise InvalidValueError(message, param=where)
