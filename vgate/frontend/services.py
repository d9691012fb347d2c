"""What endpoints work with. Made once, in `vgate.frontend.app`, and handed down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from vgate.config import Runtime
from vgate.errors import SHUTTING_DOWN, ModelNotFoundError, ShuttingDownError
from vgate.frontend.access.gate import Access
from vgate.frontend.cache.port import ResultStore
from vgate.frontend.engines.launcher_link import LauncherLink
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.text.model import TextModel

_TOKENIZE_INLINE_CHARS = 16_384

_Text = TypeVar("_Text")
_Ids = TypeVar("_Ids")


class Services:
    """The services of one frontend process.

    Attributes:
        loop: The event loop.
        runtime: The instance's settings.
        config: The configuration.
        launcher: The link to the launcher.
        models: The served models, the main one first.
        cache: The store of finished results.
        access: API keys and limits.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        runtime: Runtime,
        launcher: LauncherLink,
        models: list[ServedModel],
        cache: ResultStore,
        access: Access,
    ) -> None:
        self.loop = loop
        self.runtime = runtime
        self.config = runtime.config
        self.launcher = launcher
        self.models = models
        self.cache = cache
        self.access = access
        self._by_name = {
            name: model for model in models for name in [*model.names, *model.config.adapter_names]
        }
        self._adapters = {name for model in models for name in model.config.adapter_names}

    def not_ready_because(self) -> str | None:
        """Say why a request would not be served now; None if it would, by every model."""
        if self.launcher.draining:
            return SHUTTING_DOWN
        for model in self.models:
            reason = model.not_ready_because()
            if reason is not None:
                return reason if len(self.models) == 1 else f"{model.names[0]}: {reason}"
        return None

    def adapter(self, name: str) -> str:
        """Return the LoRA adapter that a served name stands for; "" for a model itself."""
        return name if name in self._adapters else ""

    async def tokenize(self, encode: Callable[[_Text], _Ids], text: _Text, chars: int) -> _Ids:
        """Return `encode(text)`, on a thread if the text is long.

        The tokenizer releases the GIL: 30,000 tokens take tens of milliseconds, for which no other
        stream shall wait.
        """
        if chars <= _TOKENIZE_INLINE_CHARS:
            return encode(text)
        return await self.loop.run_in_executor(None, encode, text)

    async def tokenize_rendered(self, text: TextModel, rendered: str) -> list[int]:
        """Return the token ids of rendered text; as `tokenize`."""
        pieces = text.pieces
        if len(rendered) <= _TOKENIZE_INLINE_CHARS:
            return pieces.encode(rendered)
        cut = pieces.split(rendered)
        unknown = pieces.unknown(cut)
        known = {}
        if pieces.work(unknown) <= _TOKENIZE_INLINE_CHARS:
            known = pieces.by_words(unknown)
            unknown = [piece for piece in unknown if piece not in known]
        if sum(map(len, unknown)) > _TOKENIZE_INLINE_CHARS:
            ids = await self.loop.run_in_executor(None, pieces.encode_each, unknown)
            known.update(zip(unknown, ids, strict=True))
        return pieces.join(cut, known)

    def model(self, name: str) -> ServedModel:
        """Return the model that a request names.

        Raises:
            ShuttingDownError: The server drains.
            ModelNotFoundError: No model of that name is served.
        """
        if self.launcher.draining:
            raise ShuttingDownError
        model = self._by_name.get(name)
        if model is None:
            message = (
                f"the model `{name}` does not exist; served: {', '.join(self._by_name)} "
                "(the server's `model.served_model_name` gives a model other names)"
            )
            raise ModelNotFoundError(message, param="model")
        return model
