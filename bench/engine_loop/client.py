"""A frontend that only counts tokens, so that its own cost is small beside the engine's."""

import select
import time

from vgate.wire.codec import decode_to_frontend, encode, pack_token_ids
from vgate.wire.kv_blocks import KvBlocks, WatchBlocks
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
from vgate.wire.parameters import DEFAULTS, SamplingParams
from vgate.wire.sockets import Dealer


class EngineFailedError(Exception):
    """An engine ended, was silent, or did not generate all tokens."""


class Client:
    """A connection to an engine; wait for `ready` first.

    Attributes:
        reports, report_bytes: How many messages on the prefix cache have come, and their size.
    """

    def __init__(self, endpoint: str) -> None:
        self._dealer = Dealer(endpoint, "bench")
        self._poll = select.poll()
        self._poll.register(self._dealer.fds[0], select.POLLIN)
        self._last_id = 0
        self.reports = self.report_bytes = 0

    def ready(self, timeout_s: float) -> None:
        """Wait until the engine serves."""
        self._dealer.send(encode(Hello(PROTOCOL_VERSION, "bench")))
        if not isinstance(answer := self._receive(timeout_s), Welcome):
            raise EngineFailedError(f"the engine answered {answer}")

    def watch(self) -> None:
        """Ask what is in the prefix cache, from now on."""
        self._dealer.send(encode(WatchBlocks()))

    def drain(self) -> None:
        """Read what has come."""
        while (payload := self._dealer.receive()) is not None:
            self._read(payload)

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
            raise EngineFailedError(f"{tokens} tokens instead of {len(prompts) * output_tokens}")
        return seconds

    def close(self) -> None:
        """Disconnect from the engine."""
        self._dealer.send(encode(Goodbye()))
        self._dealer.close()

    def _receive(self, timeout_s: float = 60.0) -> ToFrontend:
        deadline = time.monotonic() + timeout_s
        # The descriptor signals changes only (ZMQ_FD), so look before waiting.
        while (payload := self._dealer.receive()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise EngineFailedError(f"the engine was silent for {timeout_s:.0f} s")
            self._poll.poll(left_s * 1000)
        return self._read(payload)

    def _read(self, payload: bytes) -> ToFrontend:
        message: ToFrontend = decode_to_frontend(payload)
        if isinstance(message, KvBlocks):
            self.reports += 1
            self.report_bytes += len(payload)
        if isinstance(message, Failures | Refused):
            raise EngineFailedError(f"the engine answered {message}")
        return message
