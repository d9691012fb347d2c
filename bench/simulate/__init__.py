"""Many replicas and gateways in simulated time, with the real router."""
