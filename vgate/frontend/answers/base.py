"""What generated answers and embeddings have in common."""

import asyncio

from vgate.frontend.engines.sequence import Sequence, detach
from vgate.frontend.http.waits import ClientDisconnected


class BaseAnswer:
    """The sequences of one request, and their common end.

    Attributes:
        done: Completed with the last sequence, or failed.
        sequences: To be submitted by the owner.
        touched: See `engines.sequence.Answer`.
    """

    __slots__ = ("done", "sequences", "touched")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.touched = False
        self.done: asyncio.Future[None] = loop.create_future()
        self.sequences = [Sequence(self, index) for index in range(count)]

    def flush(self) -> None:
        """Read the new output of the sequences."""
        raise NotImplementedError

    def restart(self, sequence: Sequence) -> bool:
        """Reset a sequence so that it can start again; False if some output was already sent."""
        sequence.clear()
        return True

    def fail(self, error: Exception) -> None:
        """End the answer with an error, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(error)

    def give_up(self) -> None:
        """End the answer because its client is gone."""
        self.fail(ClientDisconnected())

    def close(self) -> None:
        """Break the reference cycles. Call it last, when no engine runs its sequences."""
        self.done = detach(self.sequences, self.done)
