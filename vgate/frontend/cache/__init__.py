"""The result cache: finished results, by a digest of everything that shapes them.

`vgate.frontend.app` makes the store (`cache.local`); everything else uses the `ResultStore` port.
"""

from vgate.frontend.cache.digest import covers, digest_of
from vgate.frontend.cache.port import ResponseStore, ResultStore, StoredResponse, StoreUsage

__all__ = ["ResponseStore", "ResultStore", "StoreUsage", "StoredResponse", "covers", "digest_of"]
