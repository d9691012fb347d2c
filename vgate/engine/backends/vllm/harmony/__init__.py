"""Constraints on models that write gpt-oss's format."""

from vgate.engine.backends.vllm.harmony.grammar import InHarmony
from vgate.engine.backends.vllm.harmony.tokens import (
    HarmonyTokens,
    check_harmony,
    harmony_tokens,
)

__all__ = ["HarmonyTokens", "InHarmony", "check_harmony", "harmony_tokens"]
