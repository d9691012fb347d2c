"""Measures for how long other requests would have waited."""

import asyncio
import gc
import time
from contextlib import asynccontextmanager


class Hold:
    """The longest time, in seconds of this process, between two turns of the loop."""

    longest_s = 0.0


@asynccontextmanager
async def watched():
    """Watch the loop. Time that the machine gives to other processes doesn't count."""
    hold = Hold()
    # As a worker does, whose heap is small: the collector needn't look at that of the tests.
    gc.collect()
    gc.freeze()

    async def watch():
        last = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            hold.longest_s = max(hold.longest_s, now - last)
            last = now

    task = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    try:
        yield hold
        await asyncio.sleep(0)
    finally:
        task.cancel()
        gc.unfreeze()
