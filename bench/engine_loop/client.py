"""A frontend that does nothing but count: what it costs is little beside the engine."""

import select
import time

from vgate.wire.codec import decode_to_frontend, encode, pack_token_ids
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Failures,
    Generate,
    Goodbye,
    Hello,
    Refused,
    Step,
    ToFrontend,
    Welcome,
)
from vgate.wire.sampling import DEFAULTS, SamplingParams
from vgate.wire.sockets import Dealer

_MS_PER_S = 1000


class ServedError(Exception):
    """The engine answered with something else than all the tokens."""


class Client:
    """A connection to an engine.

    Args:
        endpoint: Where the engine listens.
        timeout_s: Longest silence of the engine.

    Raises:
        ServedError: The engine does not answer, or not as hoped for.
    """

    def __init__(self, endpoint: str, timeout_s: float = 60.0) -> None:
        self._dealer = Dealer(endpoint, "bench")
        self._timeout_s = timeout_s
        self._poll = select.poll()
        self._poll.register(self._dealer.fds[0], select.POLLIN)
        self._last_id = 0
        self._dealer.send(encode(Hello(PROTOCOL_VERSION, "bench")))
        while not isinstance(self._receive(), Welcome):
            pass

    def generate(self, prompts: list[list[int]], output_tokens: int) -> float:
        """Generate greedily for all prompts at once; return the seconds from first to last byte."""
        sampling = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
        complete = sampling.over(DEFAULTS)
        began = time.perf_counter()
        for prompt in prompts:
            self._last_id += 1
            self._dealer.send(encode(Generate(self._last_id, pack_token_ids(prompt), complete)))
        left, tokens = len(prompts), 0
        while left:
            message = self._receive()
            if isinstance(message, Step):
                tokens += len(message.tokens)
                for delta in message.deltas:
                    tokens += len(delta.token_ids)
                    left -= delta.finish_reason is not None
        seconds = time.perf_counter() - began
        if tokens != len(prompts) * output_tokens:
            raise ServedError(f"got {tokens} tokens instead of {len(prompts) * output_tokens}")
        return seconds

    def close(self) -> None:
        """Leave the engine."""
        self._dealer.send(encode(Goodbye()))
        self._dealer.close()

    def _receive(self) -> ToFrontend:
        deadline = time.monotonic() + self._timeout_s
        # The descriptor signals changes (ZMQ_FD), so look before waiting.
        while (payload := self._dealer.receive()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ServedError(f"the engine said nothing for {self._timeout_s:.0f} s")
            self._poll.poll(left_s * _MS_PER_S)
        message = decode_to_frontend(payload)
        if isinstance(message, Failures):
            raise ServedError(message.failures[0].reason)
        if isinstance(message, Refused):
            raise ServedError(message.reason)
        return message
