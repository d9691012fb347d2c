"""Clients that stream from a Service and check every answer: the dry run repeats the text."""

import asyncio
import json
import time
from collections import Counter
from typing import Any, Self

import httpx

_TIMEOUT_S = 120


class Load:
    """A number of clients, each with a connection that it keeps; an async context manager.

    Attributes:
        done: How many answers were complete and right.
        problems: What went wrong, by when.
        gaps: The longest time without an event in each answer.
    """

    def __init__(self, url: str, clients: int, words: int, headers: dict[str, str] | None = None):
        self.done = 0
        self.problems: list[str] = []
        self.gaps: list[float] = []
        self._url = url
        self._count = clients
        self._words = words
        self._headers = headers or {}
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self._count)]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._stopping = True
        if exception[0] is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def summary(self) -> str:
        """Return what happened, for a failed test."""
        return f"{self.done} right; {Counter(self.problems).most_common(10)}"

    async def _client(self, number: int) -> None:
        # A connection that is kept meets the same pod until that closes it.
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            limits=limits, timeout=_TIMEOUT_S, trust_env=False, headers=self._headers
        ) as client:
            turn = 0
            while not self._stopping:
                turn += 1
                # Some answers take several times as long as the others.
                words = self._words * (1 if number % 3 else 6)
                text = " ".join(f"{number}.{turn}.{word}" for word in range(words))
                try:
                    problem = await self._stream(client, text)
                except httpx.TransportError as error:
                    problem = repr(error)
                if problem:
                    self.problems.append(problem)
                    await asyncio.sleep(0.1)
                else:
                    self.done += 1

    async def _stream(self, client: httpx.AsyncClient, text: str) -> str:
        """Return what is wrong with an answer."""
        body = {"messages": [{"role": "user", "content": text}], "stream": True, "model": ""}
        parts: list[str] = []
        last, gap, done = time.monotonic(), 0.0, False
        async with client.stream("POST", f"{self._url}/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code}: {(await answer.aread()).decode()[:300]}"
            async for line in answer.aiter_lines():
                now = time.monotonic()
                gap, last = max(gap, now - last), now
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return f"cut: {event['error']['code']}"
                    parts += [c["delta"].get("content") or "" for c in event["choices"]]
        if not done:
            return "ended without [DONE]"
        self.gaps.append(gap)
        return "" if "".join(parts) == text else "another text"
