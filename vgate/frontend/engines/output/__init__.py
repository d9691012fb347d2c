"""How the output of an engine reaches the answers: what is measured, gathered and deferred."""
