"""What is measured, by name and in order: the cheap ones first, that few minutes show something."""

from collections.abc import Callable

import msgspec

from bench.compare.scenarios.cached import cached_hits
from bench.compare.scenarios.frontends import first_byte, paced_streams, whole_answers
from bench.compare.scenarios.growth import growth
from bench.compare.scenarios.many_streams import long_prompt, open_streams
from bench.compare.scenarios.memory import memory
from bench.compare.scenarios.starts import starts
from bench.compare.scenarios.streamed_chat import compiled_chat, streamed_chat
from bench.compare.stage import Stage

__all__ = ["SCENARIOS", "Scenario"]


class Scenario(msgspec.Struct, frozen=True):
    """One of them.

    Attributes:
        run: Carries it out on a stage.
        title: For people.
        least_s: What it takes with one repetition: the time that is kept for it while those before
            it repeat.
        quick_s: The same in quick mode; None if it is no part of it unless asked for.
        extra: It is no part of a full run either, for which there would be no time.
    """

    run: Callable[[Stage], None]
    title: str
    least_s: float
    quick_s: float | None = None
    extra: bool = False


SCENARIOS: dict[str, Scenario] = {
    "first-byte": Scenario(first_byte, "One client, engine without delay", 5, 4),
    "cached-hits": Scenario(cached_hits, "Answers from the result cache", 12, 6),
    "whole-answers": Scenario(whole_answers, "Requests that are not streamed", 20, 5),
    "paced-streams": Scenario(paced_streams, "Streams at even steps, engine simulated", 65, 6),
    "streamed-chat": Scenario(streamed_chat, "Streamed chat on the real engine", 150, 30),
    "compiled-chat": Scenario(
        compiled_chat, "Streamed chat on the real engine, compiled", 90, extra=True
    ),
    "memory": Scenario(memory, "Memory with a large vocabulary", 18),
    "long-prompt": Scenario(long_prompt, "A long prompt beside running streams", 12),
    "open-streams": Scenario(open_streams, "Many open streams on one worker", 12),
    "growth": Scenario(growth, "How cost grows", 20),
    "starts": Scenario(starts, "Start time and memory", 5),
}
