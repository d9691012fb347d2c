"""One file an endpoint; `vgate.frontend.routes` lists them."""
