"""How long the event loops of a V-Gate's frontends were held, as they record it themselves."""

from pathlib import Path
from typing import NamedTuple

from bench import hooks


class Hold(NamedTuple):
    """The time between two turns of a loop; all in seconds.

    Attributes:
        at: When it ended, on the system's monotonic clock.
        late_s: How much longer it was than it should be.
        loop_s: The processor time that the loop's thread took in it.
        process_s: That of the whole process: more than the loop's if other threads were in its way.
        queued_s: How long the loop's thread could have run but had no processor.
    """

    at: float
    late_s: float
    loop_s: float
    process_s: float
    queued_s: float


def environment(directory: Path) -> dict[str, str]:
    """Return the variables with which a V-Gate's frontends record the holds of their loops."""
    return hooks.environment({"LOOP_HOLDS_DIR": str(directory)})


def recorded(directory: Path) -> list[Hold]:
    """Return the holds that the frontends have recorded so far."""
    holds = []
    for path in directory.glob("*.holds"):
        lines = path.read_text().split("\n")[:-1]
        holds += [Hold(*map(float, line.split())) for line in lines]
    return sorted(holds)
