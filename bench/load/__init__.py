"""A load generator for any OpenAI-compatible URL: `python -m bench.load URL`.

It shares the machine with the server it measures, so its own cost per streamed chunk is part of
its contract; bench/README.md says what it is and how it is measured.
"""
