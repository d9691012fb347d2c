"""What the frontend counts and measures, for Prometheus and `/stats`."""
