"""Calls of the script in the server, several in one round trip."""

from collections.abc import Sequence
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from vgate.frontend.shared_state.calls import SCRIPT

if TYPE_CHECKING:
    from redis.asyncio import Redis

# The keys of a call, and what it is asked.
Packed = tuple[tuple[str, ...], bytes]


class Script:
    """The script of `calls`, in the server of a client."""

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
