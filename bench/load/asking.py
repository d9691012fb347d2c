"""One request over a pool of connections, whose whole answer is wanted."""

import time

import msgspec

from bench.load.answer import TIMEOUT, Answer
from bench.load.connection import Pool
from bench.load.target import Target, request_head


async def asked(
    pool: Pool, target: Target, path: str, body: dict[str, object], *, key: str, limit_s: float
) -> Answer:
    """Return the answer to a JSON body once it is complete; the server's errors are answers, too.

    Raises:
        TimeoutError: It has not ended in time.
        OSError: The connection broke, or what came is no answer in HTTP.
    """
    content = msgspec.json.encode(body)
    head = request_head("POST", target, path, [("Authorization", f"Bearer {key}")])
    request = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
    connection = await pool.take()
    answer = Answer(time.perf_counter())
    try:
        await connection.exchange(request, answer, limit_s)
    finally:
        pool.give(connection)
    if answer.error == TIMEOUT:
        raise TimeoutError(answer.detail)
    if answer.error is not None and not answer.error.startswith("http_"):
        raise ConnectionError(answer.detail)
    return answer
