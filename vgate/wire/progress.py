"""How far the requests of a frontend are in their engine, and how long their prompts took."""

import msgspec


class Timing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a sequence's first token waited for, and all others.

    Attributes:
        prefill_s: Seconds from its start in the batch to its first token: its grammar is compiled,
            its prompt read.
        preemptions: How often it lost its KV cache, as far as that is known.
    """

    prefill_s: float
    preemptions: int = 0


class AskProgress(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Ask how far the requests of this frontend are."""


class RequestProgress(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far one request is.

    Attributes:
        id: The frontend's number for it.
        running: Whether it is in the batch; otherwise it waits in the queue.
        generated_tokens: Its output so far, of which a buffered request has got one token at most.
    """

    id: int
    running: bool
    generated_tokens: int


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The answer to `AskProgress`."""

    requests: list[RequestProgress]
