"""Ids of requests, answers and tool calls."""

import itertools
import os

# Ids must be unique, not unguessable, so the kernel is asked for random bytes only once.
_PROCESS = os.urandom(8).hex()
_numbers = itertools.count(1)


def new_id(prefix: str) -> str:
    """Return an id that no other process or call returns."""
    return f"{prefix}{_PROCESS}{next(_numbers):08x}"


def tool_call_id() -> str:
    """Return a new id for a tool call."""
    return new_id("call_")
