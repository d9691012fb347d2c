"""V-Gate's own endpoints: health, readiness, version, metrics, statistics, OpenAPI."""
