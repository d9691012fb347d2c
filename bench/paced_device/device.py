"""Devices by their times, and the most that each could do with a load."""

import json
from pathlib import Path

import msgspec

_HOOK = Path(__file__).parent / "hook"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """How long a device computes a step: a part that is always the same, and one for each of two.

    Attributes:
        base_us: Microseconds of every step: above all, reading the weights.
        sequence_us: Added for each sequence in it: reading its KV cache, and its token.
        prompt_token_us: Added for each further prompt token.
        overlap: Whether the next step is scheduled while one computes.
    """

    base_us: float
    sequence_us: float
    prompt_token_us: float
    overlap: bool = True

    def environment(self, counters: Path | None = None) -> dict[str, str]:
        """Return the variables that put this device under vLLM in a process and its children.

        Args:
            counters: A file for what the device did so far, which the worker's process keeps.
        """
        settings = msgspec.structs.asdict(self) | {"counters": counters and str(counters)}
        return {"PYTHONPATH": str(_HOOK), "PACED_DEVICE": json.dumps(settings)}
