"""Clients on a gateway's own host: they compare every answer with what it must be.

Run as a program with a URL and a number of clients: they ask until standard input is closed, and
then print what they saw as JSON.
"""

import asyncio
import json
import random
import string
import sys
import time
from typing import Any

import httpx

_TIMEOUT_S = 90


class Clients:
    """Ask for streams, one after the other each."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.ending = False
        self.right = 0
        self.wrong: list[str] = []
        self.failed: list[str] = []
        self.longest_pause_s = 0.0

    async def ask_on(self) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            while not self.ending:
                text = "".join(random.choices(string.ascii_lowercase, k=random.randint(60, 400)))
                try:
                    problem = await self._ask(client, text)
                except (httpx.HTTPError, ValueError) as error:
                    self.failed.append(repr(error))
                    await asyncio.sleep(0.1)
                    continue
                if problem:
                    self.wrong.append(problem)
                else:
                    self.right += 1

    async def _ask(self, client: httpx.AsyncClient, text: str) -> str | None:
        """Return how an answer differs from its request's text; None if it doesn't."""
        body = {"model": "", "stream": True, "messages": [{"role": "user", "content": text}]}
        got, ends, done = "", [], 0
        path = self._url + "/v1/chat/completions"
        async with client.stream("POST", path, json=body) as response:
            last = time.monotonic()
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                now = time.monotonic()
                self.longest_pause_s, last = max(self.longest_pause_s, now - last), now
                if line == "data: [DONE]":
                    done += 1
                    continue
                event: dict[str, Any] = json.loads(line[6:])
                if "error" in event:
                    raise ValueError(event["error"]["message"])
                for choice in event["choices"]:
                    got += choice["delta"].get("content") or ""
                    ends += [choice["finish_reason"]] if choice["finish_reason"] else []
        if response.status_code != httpx.codes.OK:
            raise ValueError(response.status_code)
        # The tiny model's template begins a turn with its role.
        if (got.removeprefix("user\n"), ends, done) == (text, ["stop"], 1):
            return None
        return f"{text!r} came as {got!r}, ends {ends}, {done} times done"


async def main(url: str, count: int) -> None:
    clients = Clients(url)
    tasks = [asyncio.create_task(clients.ask_on()) for _ in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    clients.ending = True
    await asyncio.wait(tasks)
    seen = {
        "right": clients.right,
        "wrong": clients.wrong[:5],
        "failed": clients.failed[:5],
        "longest_pause_s": clients.longest_pause_s,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
