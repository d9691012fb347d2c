"""What the frontend counts and measures, for Prometheus and `/stats`.

Nothing is imported here: `gathered_counts` must be in use before `metrics` is imported.
"""
