"""The stores that the contract suite holds to their port. A further one is a line in `STORES`."""

from collections.abc import Callable

from tests.frontend.cache.memory_store import MemoryStore
from vgate.config.schema import Cache
from vgate.frontend.cache import ResultStore
from vgate.frontend.cache.local import LocalStore

STORES: dict[str, Callable[[Cache, Callable[[], float]], ResultStore]] = {
    "local": lambda config, clock: LocalStore(config, clock=clock),
    "memory": MemoryStore,
}
