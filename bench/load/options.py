"""What a run was asked to do."""

from typing import Any, Literal

import msgspec

Endpoint = Literal["chat", "completions"]

PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class UsageError(Exception):
    """The run cannot start as it was asked for; the message says why."""


class PromptOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the prompts come from."""

    tokens: int = 64
    same: bool = False
    file: str | None = None
    seed: int = 0


class BodyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every request body carries beside its prompt."""

    endpoint: Endpoint = "chat"
    stream: bool = True
    max_tokens: int = 64
    ignore_eos: bool = False
    temperature: float | None = None
    extra: dict[str, Any] = {}
    include_usage: bool = True

    @property
    def choices(self) -> int:
        """How many choices each answer must have."""
        n = self.extra.get("n", 1)
        return n if isinstance(n, int) and n > 0 else 1


class PaceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """When requests are sent. `rate` makes the loop open; without it, `clients` close it."""

    clients: int = 1
    rate: float | None = None
    uniform: bool = False
    max_in_flight: int | None = None
    requests: int | None = None
    seconds: float | None = None
    warmup: int = 0
    timeout_s: float = 600.0
    keepalive: bool = True


class CheckOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must satisfy beyond being complete.

    `chunks` is how many chunks with content a streamed choice must have; `echo` asks that the text
    is the prompt, over and over, as the dry-run engine answers.
    """

    usage: bool = False
    same: bool = False
    echo: bool = False
    chunks: int | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Credentials are held beside it, so that it can be written out whole."""

    url: str
    model: str | None = None
    body: BodyOptions = BodyOptions()
    prompt: PromptOptions = PromptOptions()
    pace: PaceOptions = PaceOptions()
    check: CheckOptions = CheckOptions()
    watch: tuple[tuple[str, int], ...] = ()
    header_names: tuple[str, ...] = ()
    allow_remote: bool = False
    json_file: str | None = None
    progress: bool = True
