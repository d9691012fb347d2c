"""The server's own endpoints: health, readiness, metrics, statistics, version."""
