"""Devices by their times, the most that each could do with a load, and what it did."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from bench import hooks

_CONTEXT_TOKENS = 250  # of each sequence, on average: a prompt of 170 tokens and half an answer


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """How long a device computes a step.

    Attributes:
        base_us: Microseconds of every step: above all, reading the weights.
        sequence_us: Added for each sequence in it: reading its KV cache.
        prompt_token_us: Added for each further token of a prompt: computing it.
        overlap: Whether the next step is scheduled while one computes.
    """

    base_us: float
    sequence_us: float
    prompt_token_us: float
    overlap: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the three times, separated by commas, as in 3000,5,3.

        Raises:
            ValueError: There are not three, or one is not a number above zero.
        """
        base, sequence, prompt_token = (float(part) for part in text.split(","))
        if min(base, sequence, prompt_token) <= 0:
            raise ValueError(text)
        return cls(base_us=base, sequence_us=sequence, prompt_token_us=prompt_token)

    def environment(self, counters: Path | None = None) -> dict[str, str]:
        """Return the variables that put this device under vLLM in a process and its children.

        Args:
            counters: A file of `Counters`, which the worker's process keeps.
        """
        settings = msgspec.structs.asdict(self) | {"counters": counters and str(counters)}
        return hooks.environment({"PACED_DEVICE": json.dumps(settings)})

    def limit(self, sequences: float, prompt_tokens: float, output_tokens: float) -> float:
        """Return the most tokens a second: no step is ever late, and none has a place free.

        Each answer computes `prompt_tokens` first, and has `output_tokens`.
        """
        step_us = self.base_us + self.sequence_us * sequences
        answer_us = output_tokens * step_us / sequences + self.prompt_token_us * prompt_tokens
        return output_tokens / answer_us * 1e6

    def closed_loop_limit(
        self, clients: float, prompt_tokens: float, output_tokens: float
    ) -> float:
        """Return what is left of the limit if each client waits for an answer before it asks again.

        When a step's tokens are there, the next step begins, and the one after it is scheduled: no
        client's next request can be in either, however quickly it comes. Without overlap it misses
        one step.
        """
        missed = 2 if self.overlap else 1
        in_a_step = clients * output_tokens / (output_tokens + missed)
        return self.limit(in_a_step, prompt_tokens, output_tokens)


def fitting(kv_cache_tokens: int, prompt_tokens: float, outputs: Sequence[int]) -> float:
    """Return how many sequences fit a KV cache, if they are at even places of their growth.

    A sequence of L output tokens stays for L steps and holds, on average, its prompt and L/2.
    """
    mean = sum(length * (prompt_tokens + length / 2) for length in outputs) / sum(outputs)
    return kv_cache_tokens / mean


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What a device did so far, or between two readings.

    Attributes:
        busy_us: The time of its steps, in microseconds.
        prompt_tokens: Computed, again after a preemption.
        resumed: Sequences that began again, after they had been preempted.
        own_cpu_us: The processor's time for keeping the device, which a real one doesn't take.
    """

    steps: int
    busy_us: int
    tokens: int
    prompt_tokens: int
    started: int
    resumed: int
    own_cpu_us: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a device's file, which is there from its first step on."""
        try:
            values = _FORMAT.unpack(path.read_bytes())
        except FileNotFoundError:
            values = (0,) * len(cls.__struct_fields__)
        return cls(**dict(zip(cls.__struct_fields__, values, strict=True)))

    def since(self, before: Self) -> Self:
        """Return what it did after an earlier reading."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(before), strict=True)
        return type(self)(
            **dict(zip(self.__struct_fields__, (now - then for now, then in pairs), strict=True))
        )


_FORMAT = struct.Struct("=7Q")  # as the hook writes it


class _Card(msgspec.Struct, frozen=True):
    """A card by its data sheet: bytes per second of its memory, 16-bit operations per second."""

    bytes_per_s: float
    operations_per_s: float

    def with_model(self, parameters: float, kv_bytes_per_token: float) -> Device:
        """Return the device that this card is for a model with 16-bit weights.

        A step reads the weights once and each sequence's KV cache, and a prompt's token takes two
        operations per parameter, all at the data sheet's speed. A real card reaches 50 to 80 % of
        it and adds the time of launching kernels: this one waits less for its server.
        """
        return Device(
            base_us=2 * parameters / self.bytes_per_s * 1e6,
            sequence_us=_CONTEXT_TOKENS * kv_bytes_per_token / self.bytes_per_s * 1e6,
            prompt_token_us=2 * parameters / self.operations_per_s * 1e6,
        )


# From NVIDIA's data sheets: memory bandwidth, and dense FP16 or BF16 with sums in FP32.
_RTX_3060 = _Card(360e9, 25.5e12)
_RTX_4090 = _Card(1008e9, 165e12)
_H100_SXM = _Card(3350e9, 989e12)
# Qwen2.5: parameters; 2 (keys, values) x layers x KV heads x head size x 2 bytes.
_QWEN_1_5B = (1.54e9, 2 * 28 * 2 * 128 * 2)
_QWEN_7B = (7.62e9, 2 * 28 * 4 * 128 * 2)

DEVICES = {
    "rtx3060-1.5b": _RTX_3060.with_model(*_QWEN_1_5B),
    "rtx4090-7b": _RTX_4090.with_model(*_QWEN_7B),
    "h100-1.5b": _H100_SXM.with_model(*_QWEN_1_5B),
    # No particular card: a step of 3 to 4 ms is what vLLM reports for small models on fast ones.
    "fast": Device(base_us=3000, sequence_us=5, prompt_token_us=3),
    # Beyond today's cards, so that the server is the limit.
    "very-fast": Device(base_us=1000, sequence_us=2, prompt_token_us=1),
    # Slow enough that no server is the limit: what differs is who runs what, and when.
    "slow": Device(base_us=6000, sequence_us=20, prompt_token_us=30),
}
