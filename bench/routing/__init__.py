"""How well and how fast requests are routed between replicas."""
