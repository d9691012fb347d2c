"""How many requests a replica gets that has failed, until it has proved itself."""

# One that is on trial gets so many of a frontend's requests at once, twice as many after each first
# token, and any number after it had so many.
_FIRST = 1
_PROVED = 16
# The part of the last requests that failed: each weighs as much as all before it weigh four times.
_WEIGHT = 0.2
_TOO_MANY = 0.45  # three in a row
_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Breaker:
    """Sees a frontend's requests fail in one replica, inside streams too.

    A replica that died, or fails many of its requests, is on trial: it gets few requests at once,
    and none for a while after each failure. It is no ban: where all replicas are on trial, each
    gets its share.
    """

    __slots__ = ("_failing", "_limit", "_pause_s", "_until")

    def __init__(self) -> None:
        self._failing = 0.0
        self._limit: int | None = None
        self._pause_s = _SHORTEST_PAUSE_S
        self._until = 0.0

    def takes(self, in_flight: int, now: float) -> bool:
        """Whether the replica may get another request beside those that it has."""
        return self._limit is None or (in_flight < self._limit and now >= self._until)

    def succeeded(self) -> None:
        """Count a request that has got its first token."""
        self._failing -= self._failing * _WEIGHT
        if self._limit is not None:
            self._limit *= 2
            if self._limit > _PROVED:
                self._limit, self._pause_s, self._failing = None, _SHORTEST_PAUSE_S, 0.0

    def failed(self, now: float) -> None:
        """Count a request that ended by the engine's fault."""
        if now < self._until:
            return  # It was there before the pause.
        self._failing += (1 - self._failing) * _WEIGHT
        if self._limit is not None or self._failing > _TOO_MANY:
            self._limit, self._until = _FIRST, now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def died(self) -> None:
        """Count the engine's death: the next one is tried as soon as it is connected."""
        self._limit, self._until = _FIRST, 0.0
