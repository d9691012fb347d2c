"""Short names of models, such as "qwen3:8b", and the versions of them on the Hub.

The table is `catalogue.json`, with its date and sources. What fits is for others to say.
"""

import difflib
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

PATH = Path(__file__).with_name("catalogue.json")

# In the state directory: the name of the model that was chosen where none is configured.
CHOSEN = "model"

Form = Literal["bf16", "fp8", "int4"]
# The best first; each takes about half of the one before.
FORMS: tuple[Form, ...] = ("bf16", "fp8", "int4")


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of a model: its weights in some number of bits.

    Attributes:
        kind: Its format in words.
        bytes: What its weights take on disk.
        loaded_bytes: What they take of a GPU, where that is more; otherwise 0.
        source: Where its name comes from: a key of the catalogue's sources.
        gated: Whether its licence has to be accepted first.
    """

    form: Form
    kind: str
    repository: str
    bytes: int
    source: str
    gated: bool = False
    loaded_bytes: int = 0


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model.

    Attributes:
        config: What its config.json says, as far as its memory depends on it.
        variants: Its versions, those with the most bits first.
        tower_bytes: What of them reads images.
        rank: Its place among those that are proposed, the best the highest; 0: it isn't.
    """

    config: dict[str, Any]
    variants: list[Variant]
    task: Literal["generate", "embed"] = "generate"
    tower_bytes: int = 0
    rank: int = 0


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table; `date` is when it was put together."""

    date: str
    sources: dict[str, str]
    models: dict[str, Entry]


@cache
def catalogue() -> Catalogue:
    """Return the table."""
    return msgspec.json.decode(PATH.read_bytes(), type=Catalogue)


def entry(name: str) -> Entry | None:
    """Return the model that a short name means; None if it is no short name."""
    # Neither a directory nor OWNER/NAME looks like it.
    if ":" not in name or "/" in name:
        return None
    return catalogue().models.get(name.lower())


def similar(name: str) -> list[str]:
    """Return the short names that may be meant: sizes of the same family, or names like it."""
    wanted = name.rpartition("/")[2].lower()
    family = wanted.partition(":")[0]
    names = list(catalogue().models)
    if same := [one for one in names if one.partition(":")[0] == family]:
        return same
    plain = {one.replace(":", "-"): one for one in names}
    close = difflib.get_close_matches(wanted.replace(":", "-"), plain, n=4, cutoff=0.6)
    return [plain[one] for one in close]
