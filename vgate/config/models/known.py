"""What the pinned vLLM can run, known without it: `python -m tests.known_vllm` asks it."""

import re
from functools import cache
from pathlib import Path

import msgspec

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
        architectures: Those of its registry.
        by_transformers: Others that it runs by the code of transformers.
        arguments: Those of its engine.
    """

    vllm: str
    transformers: str
    architectures: list[str]
    by_transformers: list[str]
    arguments: list[str]

    def runs(self, architecture: str) -> bool:
        """Whether it has code for an architecture, as far as the name tells."""
        return _HEAD.sub("", architecture) in _bodies()


@cache
def known_vllm() -> KnownVLLM:
    """Return what is known of the pinned version."""
    return msgspec.json.decode(PATH.read_bytes(), type=KnownVLLM)


@cache
def _bodies() -> frozenset[str]:
    known = known_vllm()
    return frozenset(_HEAD.sub("", name) for name in known.architectures + known.by_transformers)
