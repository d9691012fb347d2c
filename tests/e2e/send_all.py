"""Sends many chat requests at a time and returns the replies in their order."""

import asyncio
from typing import Any

from tests.e2e.keep_alive import Client, Reply, json_post

CHAT = "/v1/chat/completions"


def send_all(
    port: int, model: str, requests: list[dict[str, Any]], *, streamed: int = 1, clients: int = 8
) -> list[Reply]:
    """Send requests and return the replies.

    Args:
        port: Where V-Gate listens.
        model: Who is asked.
        requests: What goes into the bodies.
        streamed: Those with an even number (0), or an odd one (1), are streamed.
        clients: How many connections ask at a time.
    """
    replies: dict[int, Reply] = {}
    work = iter(enumerate(requests))

    async def client() -> None:
        with Client(port) as connection:
            for number, request in work:
                messages = [{"role": "user", "content": f"Say something, number {number}."}]
                body = {"model": model, "messages": messages, "seed": number, **request}
                if number % 2 == streamed:
                    body |= {"stream": True, "stream_options": {"include_usage": True}}
                replies[number] = await connection.send(json_post(CHAT, body), timeout_s=300)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    asyncio.run(run())
    return [replies[number] for number in range(len(requests))]
