"""Differences between the two servers' answers that are intended, and so are not compared.

- Tokens with a part of a character: vLLM gives them an empty text, V-Gate their exact bytes.
  Requests therefore ask for token ids as names, and texts, bytes and offsets of single tokens are
  left out.
- The most likely tokens: V-Gate reports the N most likely ones, as OpenAI does. vLLM's list begins
  with the chosen token, whatever its rank, and so loses the last one.
- Fields that were not requested: vLLM adds the prompt's token ids or log probabilities to an echo.
- `max_tokens: 0`: vLLM counts the token that it discards.
"""

import copy
from typing import Any

_OF_TOKENS = frozenset({"bytes", "text_offset", "decoded_token"})


def comparable(ours: Any, theirs: Any, body: dict[str, Any]) -> tuple[Any, Any]:
    """Return two answers to a request without the intended differences."""
    ours, theirs = _without_texts(ours), _without_texts(theirs)
    for our_choice, their_choice in zip(
        ours.get("choices", ()), theirs.get("choices", ()), strict=False
    ):
        _drop_unrequested(their_choice, body)
        _align_most_likely(our_choice, their_choice)
    if body.get("max_tokens") == 0:
        ours.pop("usage", None)
        theirs.pop("usage", None)
    return ours, theirs


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_texts(v) for name, v in value.items() if name not in _OF_TOKENS}
    if isinstance(value, list):
        return [_without_texts(inner) for inner in value]
    return copy.copy(value)


def _drop_unrequested(choice: dict[str, Any], body: dict[str, Any]) -> None:
    if not body.get("return_token_ids"):
        choice.pop("prompt_token_ids", None)
    if body.get("prompt_logprobs") is None:
        choice.pop("prompt_logprobs", None)


def _align_most_likely(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Drop a chosen token that is not among the most likely, and tokens without counterpart."""
    places = zip(_content(ours), _content(theirs), strict=False)
    for our_place, their_place in places:
        most, with_chosen = our_place.get("top_logprobs"), their_place.get("top_logprobs")
        if not most or not with_chosen:
            continue
        chosen = their_place["token"]
        if with_chosen[0]["token"] == chosen and most[0]["token"] != chosen:
            others = [token for token in with_chosen if token["token"] != chosen]
            their_place["top_logprobs"] = others
            our_place["top_logprobs"] = [t for t in most if t["token"] != chosen][: len(others)]


def _content(choice: dict[str, Any]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = choice.get("logprobs", {}).get("content", [])
    return content
