"""Who may use the server, and how much: API keys, admission and rate limits."""
