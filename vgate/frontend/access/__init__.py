"""Who may use the server, and how much: API keys, admission and rate limits.

`vgate.frontend.app` makes a `gate.Access`; the pipeline uses each request's `admission.Admission`.
"""
