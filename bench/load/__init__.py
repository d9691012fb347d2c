"""A load generator for any OpenAI-compatible URL: `python -m bench.load URL`.

It shares the machine with the server it measures, so its own cost per streamed chunk is part of
its contract; README.md beside this package says what it costs and how that is measured.
"""
