"""The hashes of blocks, with a stand-in for vLLM; `schedulers_program` has the real one."""

from types import SimpleNamespace
from typing import Any

import pytest

from vgate.engine.blocks.vllm_hashes import short_hasher

BLOCK = 4
VLLMS = [b"made by vLLM"]


def request(tokens: int, hashes: list[bytes] | None = None, **parts: object) -> Any:
    nothing = {"mm_features": [], "lora_request": None, "prompt_embeds": None, "cache_salt": None}
    return SimpleNamespace(
        block_hashes=hashes or [], _all_token_ids=[*range(tokens)], **(nothing | parts)
    )


def hashes_of(one: Any) -> list[bytes]:
    hasher = short_hasher(lambda _request: VLLMS, lambda part: repr(part).encode(), BLOCK, b"first")
    return hasher(one)


def test_each_full_block_is_hashed_with_the_hash_before_it() -> None:
    first = b"(b'first', (0, 1, 2, 3), None)"
    second = repr((first, (4, 5, 6, 7), None)).encode()
    assert hashes_of(request(7)) == [first]
    assert hashes_of(request(8)) == [first, second]
    assert hashes_of(request(11)) == [first, second]
    assert hashes_of(request(8, [first])) == [second]


@pytest.mark.parametrize(("tokens", "done"), [(0, 0), (3, 0), (4, 1), (7, 1)])
def test_without_a_new_block_there_is_nothing_to_do(tokens: int, done: int) -> None:
    assert hashes_of(request(tokens, [b"done"] * done)) == []


@pytest.mark.parametrize(
    "part",
    [
        {"mm_features": ["a picture"]},
        {"lora_request": "an adapter"},
        {"prompt_embeds": "vectors"},
        {"cache_salt": "salt"},
    ],
)
def test_what_counts_beside_tokens_is_left_to_vllm(part: dict[str, object]) -> None:
    assert hashes_of(request(8, **part)) is VLLMS


def test_a_salt_counts_in_the_first_block_only() -> None:
    assert hashes_of(request(8, [b"salted"], cache_salt="salt")) == [
        b"(b'salted', (4, 5, 6, 7), None)"
    ]
