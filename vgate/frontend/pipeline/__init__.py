"""From a request to its answer: render, tokenise, look up, submit, wait, store."""
