"""One served model as a frontend sees it: the connection to its engine, and its text side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vgate.config.schema import Model
from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.parsing.detect import tool_parser_problem
from vgate.frontend.text.model import TextModel, TextModelError, load_text_model
from vgate.log import Log
from vgate.wire.control import EngineState
from vgate.wire.messages import ModelInfo

_SOON_S = 2.0
_SOON_POLL_S = 0.01
_RETRY_AFTER_S = {"starting": 10.0, "restarting": 5.0, "ready": 1.0}

log = Log("vgate.frontend")


class ServedModel:
    """See the module.

    Args:
        loop: The event loop.
        config: The model's section of the configuration.
        endpoint: Where its engine listens.
        name: This frontend's name, for the engine's log.
        state: Says what the launcher told of the engine, if it has.
        on_change: Called when it becomes ready or ceases to be.
        resume: Whether requests outlive their engine.

    Attributes:
        engine: The connection.
        text: Tokenizer, template and defaults, once an engine told where they are.
        problem: Why the text side can't be used, if it can't.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Model,
        endpoint: str,
        name: str,
        *,
        state: Callable[[], EngineState | None],
        on_change: Callable[[], None],
        resume: bool,
    ) -> None:
        self._loop = loop
        self.config = config
        self._state = state
        self._not_told = EngineState("starting", "starting", time.time())
        self._on_change = on_change
        self.text: TextModel | None = None
        self.problem = tool_parser_problem(config.tool_parser)
        self._is_misconfigured = self.problem is not None
        self._loading: asyncio.Task[None] | None = None
        # What custom logits processors look at is theirs alone to know.
        continued = not config.engine_args.get("logits_processors")
        self.engine = EngineClient(
            loop,
            endpoint,
            name,
            on_model=self._on_model,
            on_lost=on_change,
            survivors=Survivors(enabled=resume, continued=continued),
        )

    @property
    def name(self) -> str:
        """The name that answers carry: the first of `names`."""
        return self.config.served_names[0]

    @property
    def names(self) -> list[str]:
        """Names that requests may use; the first is the one answers carry."""
        return self.config.served_names

    @property
    def state(self) -> EngineState:
        """What the launcher told of the engine; "starting" until it has."""
        return self._state() or self._not_told

    def not_ready_because(self) -> str | None:
        """Say why a request would not be served now; None if it would."""
        if self.engine.connected:
            return None if self.text else self.problem or "the tokenizer is being loaded"
        if self.engine.refusal:
            return self.engine.refusal
        state = self.state
        if state.state == "ready":
            return "the engine is being connected"
        return f"the engine is {state.state}: {state.detail}"

    async def wait_until_ready(self) -> TextModel:
        """Return the text side, waiting for a moment if the engine serves and only we don't yet.

        A worker listens before it has met the launcher and the engine, and loses the engine before
        the launcher has told what became of it. Both take milliseconds, for which no client should
        get an error.

        Raises:
            EngineUnavailableError: It is not ready.
        """
        give_up_at = time.monotonic() + _SOON_S
        while self.not_ready_because() is not None and self._comes_soon():
            if time.monotonic() >= give_up_at:
                break
            await asyncio.sleep(_SOON_POLL_S)
        return self.require_text()

    def _comes_soon(self) -> bool:
        told = self._state()
        hopeless = self.problem or self.engine.refusal
        return not hopeless and (told is None or told.state == "ready")

    def require_text(self) -> TextModel:
        """Return the text side of a model that is ready.

        Raises:
            EngineUnavailableError: It is not.
        """
        reason = self.not_ready_because()
        if reason is not None or self.text is None:
            retry_after_s = _RETRY_AFTER_S[self.state.state]
            raise EngineUnavailableError(reason or "not ready", retry_after_s=retry_after_s)
        return self.text

    def _on_model(self, info: ModelInfo) -> None:
        if self.text is not None and self.text.info.directory == info.directory:
            self.text.info = info
            self._on_change()
            return
        self.text = None
        if self._is_misconfigured:
            return
        self._loading = self._loop.create_task(self._load(info))

    async def _load(self, info: ModelInfo) -> None:
        try:
            self.text = await self._loop.run_in_executor(None, load_text_model, info, self.config)
            self.problem = None
        except TextModelError as error:
            log.error("cannot serve the model's text", model=info.name, reason=error)
            self.problem = str(error)
        self._on_change()
