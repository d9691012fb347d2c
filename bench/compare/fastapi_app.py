# mypy: allow-subclassing-any, allow-untyped-decorators
"""A chat completion endpoint as it is usually written with FastAPI and pydantic, without a model.

Requests and answers are pydantic models; a stream is a generator of server-sent events. The answer
is made up: `COMPARE_TOKENS` pieces, `COMPARE_STEP_MS` apart.
"""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bench.compare.constant_app import chunks_of, usage_of

_STEP_S = float(os.environ.get("COMPARE_STEP_MS", "0")) / 1000
_PIECES = chunks_of(int(os.environ.get("COMPARE_TOKENS", "64")))

app = FastAPI()


class _Message(BaseModel):
    role: str = "assistant"
    content: str | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Request(BaseModel):
    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: _StreamOptions | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Choice(BaseModel):
    index: int = 0
    message: _Message
    finish_reason: str


class _Completion(BaseModel):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage


class _ChunkChoice(BaseModel):
    index: int = 0
    delta: _Message
    finish_reason: str | None = None


class _Chunk(BaseModel):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[_ChunkChoice]
    usage: _Usage | None = None


@app.get("/health")
async def health() -> dict[str, str]:
    """Report that it serves."""
    return {"status": "ok"}


@app.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: _Request) -> _Completion | StreamingResponse:
    """Answer a request."""
    if request.stream:
        return StreamingResponse(_events(request), media_type="text/event-stream")
    tokens = request.max_tokens or len(_PIECES)
    await asyncio.sleep(_STEP_S * tokens)
    text = "".join(_PIECES[:tokens])
    choice = _Choice(message=_Message(content=text), finish_reason="length")
    return _Completion(
        id=_new_id(),
        created=int(time.time()),
        model=request.model,
        choices=[choice],
        usage=_Usage(**usage_of(tokens)),
    )


async def _events(request: _Request) -> AsyncIterator[str]:
    head: dict[str, Any] = {"id": _new_id(), "created": int(time.time()), "model": request.model}
    tokens = request.max_tokens or len(_PIECES)

    def event(delta: _Message, finish_reason: str | None = None) -> str:
        choice = _ChunkChoice(delta=delta, finish_reason=finish_reason)
        return f"data: {_Chunk(choices=[choice], **head).model_dump_json(exclude_unset=True)}\n\n"

    yield event(_Message(role="assistant", content=""))
    for number in range(tokens):
        await asyncio.sleep(_STEP_S)
        yield event(_Message(content=_PIECES[number % len(_PIECES)]))
    yield event(_Message(), "length")
    if request.stream_options and request.stream_options.include_usage:
        chunk = _Chunk(choices=[], usage=_Usage(**usage_of(tokens)), **head)
        yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    yield "data: [DONE]\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
