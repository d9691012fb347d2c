"""What the streams of chat completions and completions have in common."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers.result import TokenCounts
from vgate.frontend.apis.openai.errors import error_body
from vgate.frontend.apis.openai.usage import Usage

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


class ResponseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants to see of its answer.

    Attributes:
        id, created, model: Of the answer; `created` is Unix time.
        include_usage, continuous_usage: Whether a stream ends with the usage, and whether every
            chunk has it.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False
    continuous_usage: bool = False


class ChunkStream:
    """Builds the parts of a stream that don't depend on the API.

    Args:
        options: What the client wants to see.
        kind: The ``object`` of its chunks.
    """

    __slots__ = ("_continuous_usage", "_head", "_include_usage", "_usage", "counts")

    counts: Callable[[], TokenCounts]

    def __init__(self, options: ResponseOptions, kind: bytes) -> None:
        head = (
            b'data: {"id":%s,"object":"%s","created":%d,"model":%s,'
            b'"system_fingerprint":null,"choices":['
        )
        name = _encode(options.model)
        # How a chunk begins, up to its choices.
        self._head = head % (_encode(options.id), kind, options.created, name)
        self._include_usage = options.include_usage
        self._continuous_usage = options.continuous_usage
        # OpenAI's chunks carry "usage": null before the one that has it.
        self._usage = b',"usage":null' if options.include_usage else b""

    def begin(self) -> bytes:
        """Return nothing: a stream begins with its choices."""
        return b""

    def end(self) -> bytes:
        """Return the usage, if it is wanted, and the end."""
        if not self._include_usage:
            return DONE
        return self._head + b'],"usage":' + _encode(Usage.of(self.counts())) + b"}\n\n" + DONE

    def error(self, error: VGateError) -> bytes:
        """Return the event that ends a broken stream. No [DONE] follows it."""
        return b"data: " + error_body(error) + b"\n\n"

    def _tail(self) -> bytes:
        """Return what follows the choices of a chunk."""
        usage = self._usage
        if self._continuous_usage:
            usage = b',"usage":' + _encode(Usage.of(self.counts()))
        return usage + b"}\n\n"
