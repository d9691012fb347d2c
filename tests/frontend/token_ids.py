"""Token ids that hypothesis chooses, and places to cut them."""

from hypothesis import strategies as st


def token_ids(model):
    return st.lists(st.integers(0, model.tokenizer.vocab_size - 1), max_size=40)


def chop(data, ids):
    """Cut a list at places that hypothesis chooses."""
    parts = []
    while ids:
        size = data.draw(st.integers(1, len(ids)))
        parts.append(ids[:size])
        ids = ids[size:]
    return parts
