"""The requests of `same_requests.jsonl`, which are sent to V-Gate and to vLLM's own server.

A line has the APIs that the request goes to (`to`), the fields that it has beside those of a
minimal request (`with`), and those of the minimal one that it lacks (`without`). `refused` names
the documented reason why V-Gate refuses it.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

CONNECTIONS = 12

_HI = [{"role": "user", "content": "hi"}]
_MINIMAL: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "tiny", "messages": _HI, "max_tokens": 3}),
    "completions": ("/v1/completions", {"model": "tiny", "prompt": "hi", "max_tokens": 3}),
    "responses": ("/v1/responses", {"model": "tiny", "input": "hi", "max_output_tokens": 3}),
    "messages": ("/v1/messages", {"model": "tiny", "messages": _HI, "max_tokens": 3}),
    "count": ("/v1/messages/count_tokens", {"model": "tiny", "messages": _HI}),
    "tokenize": ("/tokenize", {"model": "tiny"}),
    "embed": ("/v1/embeddings", {"input": "hi"}),
    "pool": ("/pooling", {"input": "hi"}),
    "score": ("/v1/score", {"text_1": "hi", "text_2": ["a", "b"]}),
    "rerank": ("/v1/rerank", {"query": "hi", "documents": ["a", "b"]}),
    "detokenize": ("/detokenize", {"model": "tiny", "tokens": [1, 2]}),
}


class Request(NamedTuple):
    """One request; `name` tells it in a failure."""

    name: str
    path: str
    body: dict[str, Any]
    refused: str | None = None


class Answer(NamedTuple):
    """Status and body; a status of 0 stands for no answer."""

    status: int
    text: str


def request(
    api: str, more: dict[str, Any], without: list[str], refused: str | None = None
) -> Request:
    """Return a minimal request of an API with other fields."""
    path, minimal = _MINIMAL[api]
    body = {name: value for name, value in (minimal | more).items() if name not in without}
    name = " ".join([api, *(f"-{field}" for field in without), json.dumps(more)])
    return Request(name, path, body, refused)


def same_requests() -> Iterator[Request]:
    """Yield all of them."""
    for line in Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for api in row["to"].split():
            yield request(api, row.get("with", {}), row.get("without", []), row.get("refused"))


def answers_of(url: str, requests: list[Request]) -> dict[str, Answer]:
    """Send requests to a server and return the answers by the requests' names."""
    answers: dict[str, Answer] = {}
    work = iter(requests)

    async def client(session: httpx.AsyncClient) -> None:
        for asked in work:
            try:
                answer = await session.post(asked.path, json=asked.body)
            except httpx.TransportError as error:
                answers[asked.name] = Answer(0, repr(error))
            else:
                answers[asked.name] = Answer(answer.status_code, answer.text)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as session, asyncio.TaskGroup() as g:
            for _ in range(CONNECTIONS):
                g.create_task(client(session))

    asyncio.run(run())
    return answers
