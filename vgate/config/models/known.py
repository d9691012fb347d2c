"""What the pinned vLLM can run, known without it: `python -m tests.known_vllm` asks it."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

from vgate.config.model import Task

PATH = Path(__file__).with_name("vllm.json")
# Heads that vLLM puts on another's body (vllm/config/model.py, _SUFFIX_TO_DEFAULTS).
_HEAD = re.compile(
    "(ForCausalLM|ForConditionalGeneration|LMHeadModel|ForTextEncoding"
    "|For[A-Z][a-z]+Classification|ForRewardModeling"
    "|(Chat|Embedding|Classification|Reward)?Model)$"
)


class KnownVLLM(msgspec.Struct, frozen=True):
    """What it says itself.

    Attributes:
        architectures: Those of its registry, and what it runs each for by itself.
        by_transformers: Others that it runs by the code of transformers.
        arguments: Those of its engine.
        ends: What it takes others for by the ends of their names, of which the first counts.
        pooling: Types of modules of sentence-transformers with which it embeds anyway.
    """

    vllm: str
    transformers: str
    architectures: dict[str, Task]
    by_transformers: list[str]
    arguments: list[str]
    ends: dict[str, Task]
    pooling: list[str]

    def runs(self, architecture: str) -> bool:
        """Whether it has code for an architecture, as far as the name tells."""
        return _HEAD.sub("", architecture) in _bodies()

    def task_of(self, architectures: Iterable[str]) -> Task:
        """Return what it runs a model for by itself; "generate" if no name tells."""
        for name in architectures:
            if name in self.architectures:
                return self.architectures[name]
            for end, task in self.ends.items():
                if name.endswith(end):
                    return task
        return "generate"


@cache
def known_vllm() -> KnownVLLM:
    """Return what is known of the pinned version."""
    return msgspec.json.decode(PATH.read_bytes(), type=KnownVLLM)


@cache
def _bodies() -> frozenset[str]:
    known = known_vllm()
    return frozenset(_HEAD.sub("", name) for name in [*known.architectures, *known.by_transformers])
