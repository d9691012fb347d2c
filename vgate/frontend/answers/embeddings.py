"""All embeddings of one request, a few at a time."""

import asyncio
from collections.abc import Callable

from vgate.errors import VGateError
from vgate.frontend.engines.sequence import BaseAnswer, Sequence


class EmbeddingAnswer(BaseAnswer):
    """Waits for all embeddings of a request.

    Args:
        loop: The event loop.
        count: The number of inputs.
        window: The most inputs that run at once.
        submit: Submits a sequence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        window: int,
        submit: Callable[[Sequence], None],
    ) -> None:
        super().__init__(loop, count)
        self._window = window
        self._submit = submit
        self._next = 0
        self._running: list[Sequence] = []

    def start(self) -> None:
        """Submit as many inputs as the window has room for.

        Raises:
            EngineUnavailableError: No engine is connected.
        """
        while self._next < len(self.sequences) and len(self._running) < self._window:
            sequence = self.sequences[self._next]
            self._submit(sequence)
            self._running.append(sequence)
            self._next += 1

    def flush(self) -> None:
        """Read the new output: an error ends the answer, a vector makes room for another input."""
        if self.done.done():
            return
        error = next((s.error for s in self._running if s.error), None)
        if error is not None:
            self.fail(error)
            return
        self._running = [s for s in self._running if s.vector is None]
        try:
            self.start()
        except VGateError as refusal:
            self.fail(refusal)
        if not self._running and not self.done.done():
            self.done.set_result(None)
