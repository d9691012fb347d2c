"""An `EngineHandle` in memory, whose engine repeats the prompt's text as the dry run does."""

import asyncio

from vgate.engine.backends.dry_run.vocabulary import BYTE_TOKENS, END
from vgate.engine.served_files import CHUNK_BYTES
from vgate.errors import DeadlineExceededError, EngineUnavailableError, VGateError
from vgate.frontend.engines.handle import EngineHandle, HandleOwner, Loss
from vgate.frontend.engines.sequence import Sequence, fail
from vgate.wire.codec import unpack_token_ids
from vgate.wire.kept import Claimed
from vgate.wire.messages import Embed, Generate, ModelInfo, Status
from vgate.wire.progress import RequestProgress


class MemoryHandle:
    """See the module. `start` and `stop` are its engine's.

    Attributes:
        files: Contents by digest.
        reads: Chunks that were read.
        watched: How often its blocks were asked for.
        watching: Whether they are wanted.
        queues: Sequences wait in its queue, as it tells of those that it begins.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: HandleOwner) -> None:
        self._loop = loop
        self._owner = owner
        self.running: dict[int, Sequence] = {}
        self.submitted: list[Generate | Embed] = []
        self.connected = False
        self.refusal: str | None = None
        self.closed = False
        self.files: dict[bytes, bytes] = {}
        self.reads = 0
        self.queues = False
        self.status = Status(0, 0, 0.0)
        self.endpoint = "memory"
        self.watched, self.watching = 0, False

    def start(self, model: ModelInfo) -> None:
        """Connect to an engine that serves `model`."""
        self.connected, self.refusal = True, None
        self._owner.on_model(self, model)

    def stop(
        self, reason: str = "the engine stopped", *, refused: bool = False, cut: bool = False
    ) -> None:
        """Lose the engine, or the link to it."""
        self.connected = False
        self.refusal = reason if refused else None
        lost, self.running = list(self.running.values()), {}
        self._owner.on_lost(self, Loss(reason, lost, refused, cut))

    @property
    def in_flight(self) -> int:
        return len(self.running)

    def submit(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        assert self.connected
        sequence.id, sequence.message = message.id, message
        sequence.deadline = self._loop.time() + timeout_s
        sequence.started = sequence.started or not self.queues
        self.running[message.id] = sequence
        self.submitted.append(message)
        self._loop.call_later(timeout_s, self._expire, sequence)
        if isinstance(message, Generate) and not message.sampling.ignore_eos:
            self._loop.call_soon(self._reply, message)

    def abort(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self.running.pop(sequence.id, None)

    def fail_all(self, error: VGateError) -> None:
        sequences, self.running = list(self.running.values()), {}
        fail(sequences, error)

    async def claim(self, name: bytes) -> Claimed | None:
        await asyncio.sleep(0)
        return Claimed(0) if self.connected else None

    async def progress(self) -> dict[int, RequestProgress]:
        await asyncio.sleep(0)
        return {number: RequestProgress(number, True, 0) for number in self.running}

    async def read_file(self, digest: bytes, offset: int) -> bytes:
        await asyncio.sleep(0)
        if not self.connected:
            message = "the engine is not connected"
            raise EngineUnavailableError(message, retry_after_s=1.0)
        self.reads += 1
        return self.files.get(digest, b"")[offset : offset + CHUNK_BYTES]

    def watch_blocks(self, *, wanted: bool = True) -> None:
        assert self.connected
        self.watched += wanted
        self.watching = wanted

    def close(self) -> None:
        self.closed = True
        self.connected = False

    def _reply(self, message: Generate) -> None:
        sequence = self.running.pop(message.id, None)
        if sequence is not None:
            text = [t for t in unpack_token_ids(message.prompt) if t < BYTE_TOKENS]
            done = len(unpack_token_ids(message.generated))
            sequence.pending += [*text, END][done:]
            sequence.finish_reason = "stop"
            sequence.answer.flush()

    def _expire(self, sequence: Sequence) -> None:
        if self.running.get(sequence.id) is sequence:
            self.abort([sequence])
            fail([sequence], DeadlineExceededError("too late"))


def _check(handle: MemoryHandle) -> EngineHandle:
    """Have the type checker compare it with the port."""
    return handle
