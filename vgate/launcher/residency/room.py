"""Which models may be in memory at once."""

from collections.abc import Collection, Mapping, Sequence

# By device: how many bytes.
Amounts = Mapping[str, int]


class Room:
    """The memory that models share.

    Args:
        needs: What each model takes of each device that it uses, by its name.
        totals: How much of each device they may take together.
        groups: Sets of models that fit together, which then count instead of all figures. A model
            that is in none is only loaded alone.
        asleep: How many unloaded models may sleep; what they keep is not in `totals`.
    """

    def __init__(
        self,
        needs: Mapping[str, Amounts],
        totals: Amounts,
        groups: Sequence[Collection[str]] = (),
        asleep: int = 0,
    ) -> None:
        self.needs = needs
        self.asleep = asleep
        self.totals = totals
        self.by_groups = bool(groups)
        grouped = {name for group in groups for name in group}
        self._groups = [frozenset(group) for group in groups]
        if groups:
            self._groups += [frozenset({name}) for name in needs if name not in grouped]

    def fits(self, names: Collection[str], added: str) -> bool:
        """Whether a model has room among others, of which only those on its devices count."""
        if self._groups:
            return any(group.issuperset(names) for group in self._groups)
        return all(self.taken(names, device) <= self.totals[device] for device in self.needs[added])

    def taken(self, names: Collection[str], device: str) -> int:
        """Return what models take of a device, in bytes."""
        return sum(self.needs[name].get(device, 0) for name in names)
