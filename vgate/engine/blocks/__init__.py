"""Which prefixes the KV cache holds, and the reports of it to the frontends that ask."""
