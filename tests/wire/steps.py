"""Steps as tests like to read them."""

from vgate.wire.messages import Delta, Step


def deltas_of(step: Step) -> list[Delta]:
    """Return all that a step brought as deltas: the columns' first."""
    plain = zip(step.ids, step.tokens, strict=True)
    return [*(Delta(number, [token]) for number, token in plain), *step.deltas]
