"""How long the launcher should wait for a step before the engine counts as hung. Pure.

It follows from the engine's own steps, but only for kinds of requests that have run before: the
first long prompt, or the first with log probabilities, may compile kernels for minutes.
"""

from collections.abc import Hashable, Mapping

from vgate.engine.request import Request
from vgate.wire.parameters import DEFAULTS, SamplingParams

# A step that takes this many times as long as the longest of the last minutes never ends.
_FACTOR = 50
# Other programs, the disk or the kernel may stop any step for a while.
_LEAST_S = 20.0
_WINDOW_S = 300.0
# Clients could make up kinds without end. Those beyond this are always new.
_MAX_KINDS = 4096
_SAMPLING = tuple(set(SamplingParams.__struct_fields__) - {"seed", "max_tokens", "min_tokens"})


class Patience:
    """Watches requests and steps."""

    def __init__(self) -> None:
        self._known: set[Hashable] = set()
        # The kinds of running requests that are new; by key.
        self._new: dict[str, Hashable] = {}
        # The longest step of this window and of the one before it.
        self._longest_s = self._before_s = 0.0
        self._window_ends = 0.0

    @property
    def seconds(self) -> float | None:
        """How long a step may take; None if nothing like it has run before."""
        longest_s = max(self._longest_s, self._before_s)
        return None if self._new or not longest_s else max(_LEAST_S, _FACTOR * longest_s)

    def started(self, request: Request, batch_size: int) -> bool:
        """Note that a request joins the batch; return whether `seconds` is None because of it."""
        kind = _kind(request, batch_size)
        if kind in self._known:
            return False
        self._new[request.key] = kind
        return len(self._new) == 1

    def removed(self, request: Request) -> None:
        """Note that a request left before its end."""
        self._new.pop(request.key, None)

    def stepped(self, running: Mapping[str, Request], seconds: float, now: float) -> None:
        """Note that a step has ended, with the requests that still run."""
        if now >= self._window_ends:
            self._before_s, self._longest_s = self._longest_s, 0.0
            self._window_ends = now + _WINDOW_S
        self._longest_s = max(self._longest_s, seconds)
        if self._new:
            self._learn(running)

    def _learn(self, running: Mapping[str, Request]) -> None:
        for key, kind in list(self._new.items()):
            request = running.get(key)
            # Its prompt was computed.
            if request is None or request.generated_tokens > len(request.continued):
                del self._new[key]
                if len(self._known) < _MAX_KINDS:
                    self._known.add(kind)


def _kind(request: Request, batch_size: int) -> Hashable:
    """Return what may make a request's steps longer than those of others."""
    options, sampling = request.options, request.sampling
    unusual = frozenset(
        name
        for name in (_SAMPLING if sampling is not None else ())
        if getattr(sampling, name) != getattr(DEFAULTS, name)
    )
    return (
        (len(request.prompt) + len(request.continued)).bit_length(),
        batch_size.bit_length(),
        unusual,
        options.logprobs is None,
        options.prompt_logprobs is None,
        options.structured is None,
        not options.bad_words,
        options.adapter,
    )
