"""Names for requests, answers and tool calls."""

from __future__ import annotations

import itertools
import os

# Names need to differ, not to be guessed by nobody: asking the kernel for each costs more.
_PROCESS = os.urandom(8).hex()
_numbers = itertools.count(1)


def new_id(prefix: str) -> str:
    """Return a name that no other process or call returns."""
    return f"{prefix}{_PROCESS}{next(_numbers):08x}"


def tool_call_id() -> str:
    """Return a new name for a tool call."""
    return new_id("call_")
