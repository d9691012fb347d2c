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


class Message(BaseModel):
    """A message of the conversation or of the answer, or a streamed part of one."""

    role: str = "assistant"
    content: str | None = None


class StreamOptions(BaseModel):
    """What a stream carries in addition to its text."""

    include_usage: bool = False


class Request(BaseModel):
    """A chat completion request."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(BaseModel):
    """A choice of a whole answer."""

    index: int = 0
    message: Message
    finish_reason: str


class Completion(BaseModel):
    """A whole answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ChunkChoice(BaseModel):
    """A choice's part in a chunk."""

    index: int = 0
    delta: Message
    finish_reason: str | None = None


class Chunk(BaseModel):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


@app.get("/health")
async def health() -> dict[str, str]:
    """Report that it serves."""
    return {"status": "ok"}


@app.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Completion | StreamingResponse:
    """Answer a request."""
    if request.stream:
        return StreamingResponse(_events(request), media_type="text/event-stream")
    tokens = request.max_tokens or len(_PIECES)
    await asyncio.sleep(_STEP_S * tokens)
    text = "".join(_PIECES[:tokens])
    choice = Choice(message=Message(content=text), finish_reason="length")
    return Completion(
        id=_new_id(),
        created=int(time.time()),
        model=request.model,
        choices=[choice],
        usage=Usage(**usage_of(tokens)),
    )


async def _events(request: Request) -> AsyncIterator[str]:
    head: dict[str, Any] = {"id": _new_id(), "created": int(time.time()), "model": request.model}
    tokens = request.max_tokens or len(_PIECES)

    def event(delta: Message, finish_reason: str | None = None) -> str:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason)
        return f"data: {Chunk(choices=[choice], **head).model_dump_json(exclude_unset=True)}\n\n"

    yield event(Message(role="assistant", content=""))
    for number in range(tokens):
        await asyncio.sleep(_STEP_S)
        yield event(Message(content=_PIECES[number % len(_PIECES)]))
    yield event(Message(), "length")
    if request.stream_options and request.stream_options.include_usage:
        chunk = Chunk(choices=[], usage=Usage(**usage_of(tokens)), **head)
        yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
    yield "data: [DONE]\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
