"""Reads whole files that a model's authors have written, which may be of any size."""

from pathlib import Path

from vgate.config.models.settings import CheckpointError

# The largest tokenizers have 40 MB, the indexes of models with a million tensors 100.
MOST_BYTES = 100_000_000


def content_of(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        CheckpointError: It is larger than any model's; no more of it was read than that.
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise CheckpointError(
            f"{path} has more than {MOST_BYTES / 1e6:g} MB, which no model's has: fetch the model "
            "again, or take another one"
        )
    return content
