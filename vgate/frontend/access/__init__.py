"""Who may use the server, and how much: API keys, admission and rate limits.

`vgate.frontend.app` makes an `Access` (`admission`), which gives each request its `Admission`.
"""
