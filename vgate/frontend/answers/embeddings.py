"""All embeddings of one request, made a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vgate.errors import VGateError
from vgate.frontend.engines.sequence import Sequence, detach
from vgate.frontend.http.waits import ClientDisconnected


class EmbeddingAnswer:
    """Waits for all embeddings of a request, and has them made a window at a time.

    Args:
        loop: The event loop.
        count: Inputs.
        window: Most of them that are under way at once.
        submit: Starts one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        window: int,
        submit: Callable[[Sequence], None],
    ) -> None:
        self.touched = False
        self.done: asyncio.Future[None] = loop.create_future()
        self.sequences = [Sequence(self, index) for index in range(count)]
        self._window = window
        self._submit = submit
        self._next = 0
        self._under_way: list[Sequence] = []

    def start(self) -> None:
        """Start the first of them.

        Raises:
            EngineUnavailableError: No engine is connected.
        """
        while self._next < len(self.sequences) and len(self._under_way) < self._window:
            sequence = self.sequences[self._next]
            self._submit(sequence)
            self._under_way.append(sequence)
            self._next += 1

    def flush(self) -> None:
        """See what has come: an error ends it, and each that is done lets another one start."""
        if self.done.done():
            return
        error = next((s.error for s in self._under_way if s.error), None)
        if error is not None:
            self.fail(error)
            return
        self._under_way = [s for s in self._under_way if s.vector is None]
        try:
            self.start()
        except VGateError as refusal:
            self.fail(refusal)
        if not self._under_way and not self.done.done():
            self.done.set_result(None)

    def restart(self, sequence: Sequence) -> bool:
        """Have one begun anew: a vector comes at once or not at all."""
        sequence.clear()
        return True

    def fail(self, error: Exception) -> None:
        """End with an error, once."""
        if not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        """Let go of what holds it in turn. Nothing comes for its sequences any more."""
        self.done = detach(self.sequences, self.done)

    def give_up(self) -> None:
        """End because the client is gone."""
        self.fail(ClientDisconnected())
