"""Connections to the target: opening, reusing, closing."""

import asyncio
import resource
import ssl
from time import perf_counter

from bench.load.answer import Answer
from bench.load.connection import Connection
from bench.load.options import UsageError
from bench.load.target import Target, request_head

# Below the shortest keep-alive limit in common use (5 s): a request must not meet a server that
# is just hanging up.
_MAX_IDLE_S = 3.0
_CONNECT_TIMEOUT_S = 10.0
# A listening socket's queue may be as short as 128, and what overflows it waits for a second.
_MAX_CONNECTING = 64
_SPARE_FILES = 64


class Pool:
    """Idle connections, the last one used first."""

    def __init__(self, target: Target, *, keepalive: bool) -> None:
        self._target = target
        self._address = target.addresses[0]
        self._tls: ssl.SSLContext | None = target.tls_context()
        self._keepalive = keepalive
        self._idle: list[Connection] = []
        self._connecting = asyncio.Semaphore(_MAX_CONNECTING)

    async def find_address(self) -> None:
        """Settle on the first of the target's addresses that accepts a connection.

        Raises:
            UsageError: none does.
        """
        reason = "it has no address"
        for address in self._target.addresses:
            self._address = address
            try:
                self.give(await self.open())
            except (OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            else:
                return
        raise UsageError(f"cannot connect to {self._target.authority}: {reason}")

    async def open(self) -> Connection:
        """Open a connection."""
        host = self._target.host if self._tls else None
        loop = asyncio.get_running_loop()
        async with self._connecting, asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                Connection, self._address, self._target.port, ssl=self._tls, server_hostname=host
            )
        return connection

    async def take(self) -> Connection:
        """Return an idle connection, or a new one."""
        oldest = perf_counter() - _MAX_IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return await self.open()

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        if self._keepalive and connection.usable:
            connection.idle_since = perf_counter()
            self._idle.append(connection)
        else:
            connection.close()

    async def prepare(self, count: int) -> None:
        """Open that many connections, where they can be opened and will be reused."""
        if not self._keepalive:
            return
        missing = count - len(self._idle)
        opened = await asyncio.gather(
            *(self.open() for _ in range(missing)), return_exceptions=True
        )
        for connection in opened:
            if isinstance(connection, Connection):
                self.give(connection)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def get(self, path: str, headers: list[tuple[str, str]], timeout_s: float) -> Answer:
        """Send a GET request and return its answer."""
        answer = Answer(perf_counter())
        connection = await self.take()
        head = request_head("GET", self._target, path, headers)
        await connection.exchange(head + b"\r\n", answer, timeout_s)
        self.give(connection)
        return answer


def allow_files(count: int) -> None:
    """Raise this process's limit of open files towards that many connections.

    Raises:
        UsageError: the hard limit is below it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(f"{count} connections need {needed} open files; the limit is {hard}")
    if needed > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
