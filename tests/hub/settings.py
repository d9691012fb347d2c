"""The Hub's settings in the environment, for tests of what asks it."""

from pathlib import Path

import pytest

_NAMES = (
    *("HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"),
    *("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "http_proxy", "HTTP_PROXY"),
)


def forget_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take away the machine's own settings, and its cache."""
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
