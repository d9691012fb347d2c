"""How much a model is to think, by a Messages request."""

from __future__ import annotations

from vgate.errors import UnsupportedParameterError
from vgate.frontend.apis.anthropic.messages.request import (
    CountTokensRequest,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
)

# What Anthropic's API does where nothing is said.
DEFAULT_EFFORT = "high"

# A budget is no bound here: it says how hard to think, to templates that can be told so.
_EFFORT_BELOW = ((4096, "low"), (16_384, "medium"))


def reasoning_effort(request: CountTokensRequest, *, adjustable: bool, reasons: bool) -> str | None:
    """Return the reasoning effort that a request asks for; None for the model's own.

    Args:
        request: The request.
        adjustable: Whether the model's chat template can be told how much to think.
        reasons: Whether the model thinks.

    Raises:
        UnsupportedParameterError: The model can't do it.
    """
    thinking = request.thinking
    effort = request.output_config.effort if request.output_config else None
    if isinstance(thinking, ThinkingDisabled):
        if reasons and not adjustable:
            raise _refused("thinking.type", "'disabled': this model always thinks")
        return "none" if adjustable else None
    if adjustable:
        if isinstance(thinking, ThinkingEnabled):
            return effort or _effort_of(thinking.budget_tokens)
        return effort
    if isinstance(thinking, ThinkingEnabled) and not reasons:
        raise _refused("thinking.type", "'enabled': this model does not think")
    if effort not in {None, DEFAULT_EFFORT}:
        reason = f"{effort!r}: the model's chat template has no way to set it"
        raise _refused("output_config.effort", reason)
    return None


def shows_thinking(request: CountTokensRequest) -> bool:
    """Whether the client wants to see what the model thinks."""
    thinking = request.thinking
    if isinstance(thinking, ThinkingEnabled | ThinkingAdaptive):
        return thinking.display != "omitted"
    return True


def _effort_of(budget_tokens: int) -> str:
    return next((effort for below, effort in _EFFORT_BELOW if budget_tokens < below), "high")


def _refused(where: str, reason: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"`{where}` {reason}", param=where)
