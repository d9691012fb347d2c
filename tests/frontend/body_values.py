"""What `server.max_items` counts, by walking a decoded body."""


def items_of(value: object) -> int:
    """Return how many items a value counts as."""
    match value:
        case dict():
            return 1 + sum(2 + items_of(inner) for inner in value.values())
        case list():
            return 1 + sum(map(items_of, value))
        case str():
            return 1
    return 0
