"""The port to one engine, and to the owner of several handles."""

from typing import NamedTuple, Protocol

from vgate.errors import VGateError
from vgate.frontend.engines.sequence import Sequence
from vgate.wire.kept import Claimed
from vgate.wire.kv_blocks import KvBlocks
from vgate.wire.messages import Embed, Generate, ModelInfo, Status
from vgate.wire.progress import RequestProgress


class Loss(NamedTuple):
    """The end of a connection to an engine.

    Attributes:
        reason: Why, for clients and logs.
        sequences: All sequences that ran in the engine. They have not ended; the owner fails each,
            or submits it to another engine.
        refused: The engine is alive and refuses this frontend.
        cut: The engine may be alive: its host can't be reached.
    """

    reason: str
    sequences: list[Sequence]
    refused: bool
    cut: bool = False

    @property
    def alive(self) -> bool:
        """Whether the engine may be alive, with what it keeps."""
        return self.refused or self.cut


class HandleOwner(Protocol):
    """A handle's callbacks, called from the event loop and never from a handle's own methods."""

    def on_model(self, handle: "EngineHandle", model: ModelInfo) -> None:
        """An engine is connected and takes sequences. Called at each connection."""

    def on_resumed(self, handle: "EngineHandle") -> None:
        """An engine that was drained takes sequences again."""

    def on_lost(self, handle: "EngineHandle", loss: Loss) -> None:
        """The engine is gone, or could not be connected. The handle connects to the next one."""

    def on_blocks(self, handle: "EngineHandle", message: KvBlocks) -> None:
        """The engine tells what its KV cache has got and lost; see `watch_blocks`."""


class EngineHandle(Protocol):
    """One engine, as a frontend uses it. All methods are called from the event loop.

    A submitted sequence ends exactly once: by its last delta, by an error (a failure, its deadline,
    or `fail_all`), or by `abort`; or the owner gets it back in a `Loss`. Each answer is flushed
    after each batch of messages, or later if all that it got were tokens, but before an error.

    Attributes:
        endpoint: Where the engine is.
        status: The engine's last heartbeat.
    """

    endpoint: str
    status: Status

    @property
    def connected(self) -> bool:
        """Whether the engine takes sequences."""

    @property
    def refusal(self) -> str | None:
        """Why the engine refuses this frontend; None if it doesn't."""

    @property
    def in_flight(self) -> int:
        """The number of sequences that have not ended."""

    def submit(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        """Start a sequence. Call it only while `connected`.

        Args:
            sequence: Gets the output.
            message: What to run. Its id was never used before, for any engine.
            timeout_s: Longest time until the sequence ends.
        """

    async def claim(self, name: bytes) -> Claimed | None:
        """Take a kept stream from its readers, for `submit` to join; None if the engine is lost."""

    async def progress(self) -> dict[int, RequestProgress]:
        """Return how far the sequences are, by their ids; none if the engine is lost."""

    def abort(self, sequences: list[Sequence]) -> None:
        """Stop sequences without an end; those that don't run in this engine are ignored."""

    def fail_all(self, error: VGateError) -> None:
        """Stop every sequence and end it with `error`."""

    async def read_file(self, digest: bytes, offset: int) -> bytes:
        """Return a chunk of one of the model's files. Read one chunk at a time.

        Returns:
            At most 256 KiB from byte `offset`; b"" at the end of the file and for a digest that
            is not in `ModelInfo.files`.

        Raises:
            EngineUnavailableError: The engine is not connected, or was lost.
        """

    def watch_blocks(self, *, wanted: bool = True) -> None:
        """Have the engine tell its owner all blocks of its KV cache, and from then on changes.

        Call it while `connected`; again for another report from the beginning, or, if they are not
        `wanted` any more, for none. What is on the way then still comes.
        """

    def close(self) -> None:
        """Disconnect for good. The owner is not called any more, and who waits gets an answer."""
