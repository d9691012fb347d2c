"""What endpoints work with: ports and plain values, put together in `vgate.frontend.app`."""

from collections.abc import Awaitable, Callable, Collection
from datetime import date
from typing import Any, Literal, Protocol

from vgate.config.schema import Security
from vgate.frontend.cache.port import ResponseStore, StoreUsage
from vgate.frontend.engines import Models
from vgate.frontend.http import HttpRequest, StaticFiles
from vgate.frontend.pipeline import PipelineServices, Workers


class Ledger(Protocol):
    """What API keys use and have used."""

    def problems(self) -> list[str]:
        """Return why use isn't written where it should be; nothing if it is."""

    async def read(
        self, by: Collection[str], since: date, until: date, key: str | None
    ) -> list[dict[str, Any]]:
        """Return the use of all keys or of one, as rows of `GET /v1/usage`.

        Raises:
            LedgerUnavailableError: The ledger can't be read.
        """


class Orders(Protocol):
    """Has an operator's orders carried out. Each returns why that can't be done, or ""."""

    async def order(
        self, engine: int, action: Literal["drain", "resume", "restart"], *, force: bool = False
    ) -> str:
        """Drain, resume or restart an engine."""

    async def order_model(
        self, model: str, action: Literal["load", "unload"], *, force: bool = False
    ) -> str:
        """Load or unload a model."""


class Hosts(Protocol):
    """The hosts whose engines have joined, and invitations to others.

    Every method raises `InvalidRequestError` if what is asked can't be done.
    """

    async def invite(self, model: str | None, for_s: float) -> dict[str, Any]:
        """Return a token for one host, and what it needs to know to connect."""

    async def settings(self, token: str) -> dict[str, Any]:
        """Return what a host needs to serve the model that a token is for."""

    async def join(self, token: str, name: str, addresses: list[str], public_key: str) -> None:
        """Take up a host with its engines."""

    async def joined(self) -> list[dict[str, Any]]:
        """Return the hosts that have joined."""

    async def remove(self, name: str) -> None:
        """Remove a host: its engines finish their requests and get no more."""


class Services(PipelineServices, frozen=True, kw_only=True):
    """The services of one frontend process.

    Attributes:
        cache: Returns the size of this process's result cache.
        limits: Returns the use of the limits of each API key that a request may be told of.
        sees_all: Whether a request may be told of all keys and of the configuration.
        visitor: Returns the API key of whom an answer is for, with `models` and `admin`: also on
            a path that needs none; None for one without a valid key.
        security: Where the keys are; it has hashes of keys only.
        workers: The requests of all workers.
        orders: Gives engines and models an operator's orders.
        hosts: The other hosts whose engines have joined.
        memory: Returns the resident bytes of each process by its name.
        config: The effective configuration as builtin types, secrets hidden.
        backend: Name of the engine backend.
        ledger: What keys have used.
        shared_problems: Returns why the server that gateways share can't be used.
        responses: Where responses are stored; None if none are.
        page: The files of the page; None if it is off.
        started: Unix time of the instance's start, in seconds.
    """

    models: Models
    cache: Callable[[], StoreUsage]
    limits: Callable[[HttpRequest], Awaitable[list[dict[str, Any]]]]
    sees_all: Callable[[HttpRequest], bool]
    visitor: Callable[[HttpRequest], Any]
    security: Security
    workers: Workers
    orders: Orders
    hosts: Hosts
    memory: Callable[[], dict[str, int]]
    config: dict[str, Any]
    backend: str
    started: float
    ledger: Ledger
    shared_problems: Callable[[], list[str]] = list
    page: StaticFiles | None = None
    responses: ResponseStore | None = None
