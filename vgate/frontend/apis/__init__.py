"""One package an API; `vgate.frontend.routes` lists their endpoints."""
