"""Who may use the server, and how much: API keys, admission and rate limits.

`vgate.frontend.app` makes an `Access`, which gives each request its `Admission`.
"""

from vgate.frontend.access.admission import Access, Admission

__all__ = ["Access", "Admission"]
