"""What endpoints work with. Made once, in `vgate.frontend.app`, and handed down."""

from __future__ import annotations

import asyncio

from vgate.config import Config
from vgate.errors import EngineUnavailableError, ModelNotFoundError, ShuttingDownError
from vgate.frontend.engine_client import EngineClient
from vgate.frontend.launcher_link import LauncherLink
from vgate.frontend.text_model import TextModel

_RETRY_AFTER_S = {"starting": 10.0, "restarting": 5.0, "ready": 1.0}


class Services:
    """The services of one frontend process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        engine: EngineClient,
        launcher: LauncherLink,
    ) -> None:
        self.loop = loop
        self.config = config
        self.engine = engine
        self.launcher = launcher
        self.text_model: TextModel | None = None
        # Why the text model can't be used, if it can't.
        self.text_model_problem: str | None = None

    def not_ready_because(self) -> str | None:
        """Say why a request would not be served now; None if it would."""
        if self.launcher.draining:
            return "the server is shutting down"
        if self.engine.connected:
            if self.text_model is not None:
                return None
            return self.text_model_problem or "the tokenizer is being loaded"
        state = self.launcher.engine
        if state.state == "ready":
            return self.engine.refusal or "the engine is being connected"
        return f"the engine is {state.state}: {state.detail}"

    def require_model(self, name: str | None = None) -> TextModel:
        """Return the served model.

        Args:
            name: The name that a request gives; None for the model whatever its name.

        Raises:
            ShuttingDownError: The server drains.
            EngineUnavailableError: No engine is ready.
            ModelNotFoundError: No model of that name is served.
        """
        if self.launcher.draining:
            message = "the server is shutting down"
            raise ShuttingDownError(message, retry_after_s=_RETRY_AFTER_S["restarting"])
        if name is not None and name not in self.served_names:
            served = ", ".join(self.served_names)
            message = f"the model `{name}` does not exist; served: {served}"
            raise ModelNotFoundError(message, param="model")
        reason = self.not_ready_because()
        if reason is not None or self.text_model is None:
            retry_after_s = _RETRY_AFTER_S[self.launcher.engine.state]
            raise EngineUnavailableError(reason or "not ready", retry_after_s=retry_after_s)
        return self.text_model

    @property
    def served_names(self) -> list[str]:
        """Names under which the model is served, known before the engine is ready."""
        return self.config.model.served_names
