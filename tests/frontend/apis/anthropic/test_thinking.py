"""The reasoning effort, from the request and the abilities of the model."""

import json
from typing import Any

import pytest

from vgate.frontend.apis.anthropic.messages.request import decode_messages
from vgate.frontend.apis.anthropic.messages.translate import reasoning_effort
from vgate.frontend.http import Ignored

DISABLED = {"type": "disabled"}
ADAPTIVE = {"type": "adaptive"}


def enabled(budget_tokens: int = 1024) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget_tokens}


def effort_of(
    thinking=None, effort=None, ignored=None, *, adjustable: bool, reasons: bool
) -> str | None:
    asked: dict[str, Any] = {
        "model": "m",
        "max_tokens": 100_000,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    if thinking is not None:
        asked["thinking"] = thinking
    if effort is not None:
        asked["output_config"] = {"effort": effort}
    request = decode_messages(json.dumps(asked).encode(), Ignored())
    return reasoning_effort(request, ignored or Ignored(), adjustable=adjustable, reasons=reasons)


@pytest.mark.parametrize(
    ("thinking", "effort", "expected"),
    [
        (None, None, None),
        (None, "max", "max"),
        (DISABLED, None, "none"),
        (DISABLED, "high", "none"),
        (ADAPTIVE, None, None),
        (ADAPTIVE, "low", "low"),
        (enabled(1024), None, "low"),
        (enabled(4095), None, "low"),
        (enabled(4096), None, "medium"),
        (enabled(16_383), None, "medium"),
        (enabled(16_384), None, "high"),
        (enabled(1024), "max", "max"),
    ],
)
def test_a_template_that_sets_the_effort(thinking, effort, expected):
    assert effort_of(thinking, effort, adjustable=True, reasons=True) == expected


@pytest.mark.parametrize("reasons", [True, False])
@pytest.mark.parametrize("thinking", [None, ADAPTIVE])
@pytest.mark.parametrize("effort", [None, "high"])
def test_what_every_model_supports(thinking, effort, reasons):
    assert effort_of(thinking, effort, adjustable=False, reasons=reasons) is None


@pytest.mark.parametrize(
    ("thinking", "effort", "reasons", "path"),
    [
        (DISABLED, None, True, "thinking"),
        (enabled(), None, False, "thinking"),
        (None, "low", True, "output_config.effort"),
        (ADAPTIVE, "max", False, "output_config.effort"),
        (enabled(), "low", True, "output_config.effort"),
    ],
)
def test_what_the_model_can_t_follow_is_told(thinking, effort, reasons, path):
    ignored = Ignored()
    assert effort_of(thinking, effort, ignored, adjustable=False, reasons=reasons) is None
    assert ignored.names == [path]


def test_thinking_enabled_for_a_model_that_always_thinks():
    assert effort_of(enabled(), adjustable=False, reasons=True) is None


def test_thinking_disabled_for_a_model_that_never_thinks():
    assert effort_of(DISABLED, adjustable=False, reasons=False) is None
