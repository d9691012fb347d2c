"""Calls of the script that counts limits, `limits.lua`: what it is asked, and what it answers."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from redis.asyncio import Redis

SCRIPT = Path(__file__).with_name("limits.lua")

# Of the server's clock, in a second.
TICKS = 1_000_000
# What the server keeps for an API key.
_PARTS = ("meta", "requests", "tokens", "amounts", "leases", "reserved", "used")

Operation = Literal["admit", "settle", "renew", "usage"]


class BudgetCall(msgspec.Struct, kw_only=True):
    """A key's budget, and what a gateway has used of it.

    Attributes:
        gateway: The gateway's id, under which its use is kept.
        used: All that it has used in the period, by its ledger.
        keep: Ticks for which the period's counts are kept.
    """

    tokens: int
    gateway: str
    used: int
    keep: int


class Call(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One call of the script. Times are in ticks, of which `second` are a second.

    Attributes:
        op: What to do: `admit` a request (`cost` 1) or tokens of one that was admitted (0),
            `settle` it, `renew` what runs, or tell the `usage`.
        id: The request's.
        now: The time, instead of the server's.
        lease: For how long a request is known to run. Whoever runs it renews that.
        deadline: The server's time after which to do nothing.
        seen: The latest stamp that this gateway knows of the key.
        strict: Refuse for a window if counts were lost.
        runs: Whether the request runs until it is settled.
        used: The tokens that a request has used; None leaves those that were reserved.
        abandon: End the request as if it had not been made.
        ids, budgeted: The running requests, and their budgeted tokens, to renew.
    """

    op: Operation
    id: str = ""
    second: int
    now: int | None = None
    lease: int = 0
    deadline: int | None = None
    seen: int = 0
    strict: bool = False
    cost: int = -1
    tokens: int = -1
    runs: bool = False
    requests: int | None = None
    window: int | None = None
    token_limit: int | None = None
    token_window: int
    concurrent: int | None = None
    budget: BudgetCall | None = None
    used: int | None = None
    abandon: bool = False
    ids: list[str] | None = None
    budgeted: dict[str, int] | None = None


class Answer(msgspec.Struct, kw_only=True):
    """What the script answers.

    Attributes:
        time: The server's time.
        last: The latest stamp of the key.
        reason: What refuses; None if nothing does. `late`: after its deadline. `lost`: counts were
            lost, and the windows in which they could be missing have not ended.
        wait: Ticks until nothing refuses, if nothing else came; -1: never.
        left: What is left of the budget that refuses.
        requests_left_in, tokens_left_in: Ticks until the oldest entry leaves its window.
        budget: What is used and reserved of the budget.
    """

    time: int
    last: int = 0
    reason: Literal["requests", "tokens", "concurrent", "budget", "late", "lost"] | None = None
    wait: int = 0
    left: int = 0
    running: int = 0
    requests: int = 0
    tokens: int = 0
    requests_left_in: int = 0
    tokens_left_in: int = 0
    budget: int | None = None


encode = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


@lru_cache(maxsize=10_000)
def names_of(prefix: str, key_id: str) -> tuple[str, ...]:
    """Return the script's keys for an API key; the last one lacks a budget's period."""
    # In braces: what a cluster chooses the node by.
    tag = blake2b(key_id.encode(), digest_size=16).hexdigest()
    return tuple(f"{prefix}:{{{tag}}}:{part}" for part in _PARTS)


# The keys of a call, and what it is asked.
Packed = tuple[tuple[str, ...], bytes]


class Script:
    """The script in the server of a client. Several calls take one round trip."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._source = SCRIPT.read_text()
        self._sha = sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def load(self) -> None:
        """Send the script to the server."""
        await self._client.script_load(self._source)

    async def run(self, calls: Sequence[Packed]) -> list[Any]:
        """Return what each call answers, or the error of each that fails."""
        from redis.exceptions import NoScriptError

        replies = await self._run(calls)
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # the server has forgotten it, and has done nothing
            await self.load()
            again = await self._run([calls[n] for n in unknown])
            for n, reply in zip(unknown, again, strict=True):
                replies[n] = reply
        return replies

    async def _run(self, calls: Sequence[Packed]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for keys, payload in calls:
            pipe.execute_command("EVALSHA", self._sha, len(keys), *keys, payload)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies
