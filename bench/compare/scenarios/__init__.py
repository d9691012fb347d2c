"""What is measured, by name and in order: the cheap ones first, so that a short run has results."""

from collections.abc import Callable

import msgspec

from bench.compare.run import Run
from bench.compare.scenarios.chat import compiled_chat, streamed_chat
from bench.compare.scenarios.frontends import (
    cached_hits,
    first_byte,
    memory,
    paced_streams,
    starts,
    whole_answers,
)
from bench.compare.scenarios.growth import growth, long_prompt, open_streams
from bench.compare.scenarios.paced_device import paced_device, paced_keys, paced_overfull


class Scenario(msgspec.Struct, frozen=True):
    """One of them.

    Attributes:
        least_s: The time of one repetition, which is reserved while earlier scenarios repeat.
        quick_s: The same in quick mode; None if it is not part of that by default.
        extra: It runs only when requested by name, since a full run has no time for it.
    """

    run: Callable[[Run], None]
    title: str
    least_s: float
    quick_s: float | None = None
    extra: bool = False

    def least_time_s(self, *, quick: bool) -> float:
        """Return the time of one repetition."""
        return self.quick_s or self.least_s / 3 if quick else self.least_s


SCENARIOS: dict[str, Scenario] = {
    "first-byte": Scenario(first_byte, "One client, engine without delay", 5, 4),
    "cached-hits": Scenario(cached_hits, "Answers from the result cache", 12, 6),
    "whole-answers": Scenario(whole_answers, "Requests that are not streamed", 20, 5),
    "paced-streams": Scenario(paced_streams, "Streams at even steps, engine simulated", 65, 6),
    "streamed-chat": Scenario(streamed_chat, "Streamed chat on the real engine", 150, 30),
    "compiled-chat": Scenario(
        compiled_chat, "Streamed chat on the real engine, compiled", 90, extra=True
    ),
    "paced-device": Scenario(
        paced_device, "Streams at a GPU's pace, on the real engine", 220, 30, extra=True
    ),
    "paced-overfull": Scenario(
        paced_overfull, "A KV cache for 12 answers, at a GPU's pace", 125, 40, extra=True
    ),
    "paced-keys": Scenario(
        paced_keys, "A light key beside a heavy one, at a GPU's pace", 80, 40, extra=True
    ),
    "memory": Scenario(memory, "Memory with a large vocabulary", 18),
    "long-prompt": Scenario(long_prompt, "A long prompt beside running streams", 12),
    "open-streams": Scenario(open_streams, "Many open streams on one worker", 12),
    "growth": Scenario(growth, "How cost grows", 20),
    "starts": Scenario(starts, "Start time and memory", 5),
}
