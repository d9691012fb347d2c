"""Commands about models: what fits, what can be had, what a running server has loaded."""
