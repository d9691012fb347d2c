"""One package per API; `vgate.frontend.routes` lists the endpoints."""
