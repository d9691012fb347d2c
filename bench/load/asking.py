"""One request over a pool of connections, whose whole answer is wanted."""

import time

import msgspec

from bench.load.answer import TIMEOUT, Answer
from bench.load.connection import Pool


async def asked(
    pool: Pool, path: str, body: dict[str, object], *, key: str, limit_s: float
) -> Answer:
    """Return the answer to a JSON body once it is complete; the server's errors are answers, too.

    Raises:
        TimeoutError: It has not ended in time.
        OSError: The connection broke, or what came is no answer in HTTP.
    """
    answer = Answer(time.perf_counter())
    content = msgspec.json.encode(body)
    await pool.send("POST", path, content, answer, key=key, limit_s=limit_s)
    if answer.error == TIMEOUT:
        raise TimeoutError(answer.detail)
    if answer.error is not None and not answer.error.startswith("http_"):
        raise ConnectionError(answer.detail)
    return answer
