"""A served model in a frontend: its engines, and its tokenizer and chat template."""

import asyncio
import time
from collections.abc import Callable

from vgate.config.schema import Model
from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.file_cache import FileCache, FileCacheError
from vgate.frontend.engines.handle import EngineHandle, HandleOwner
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.parsing import tool_parser_problem
from vgate.frontend.text import TextModel, TextModelError, load_text_model, template_problem
from vgate.log import Log
from vgate.wire.control import EngineState
from vgate.wire.messages import ModelInfo

_SOON_S = 2.0
_SOON_POLL_S = 0.01
_RETRY_AFTER_S = {"starting": 10.0, "restarting": 5.0, "ready": 1.0}

log = Log("vgate.frontend")


class ServedModel:
    """One model of the configuration.

    Args:
        loop: The event loop.
        config: The model's section of the configuration.
        connect: Returns a handle for each of its engines; its argument owns them.
        files: The cache of model files.
        state: Returns the state that the launcher has reported; None before it has.
        on_change: Called when the model becomes ready, or stops being ready.
        survivors: Makes the place where sequences wait for an engine; its argument is whether
            they may continue after some of their output was sent.

    Attributes:
        engine: The pool of its engines.
        text: Tokenizer, template and defaults; None until they are loaded.
        problem: Why the text side can't be loaded, if that failed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Model,
        connect: Callable[[HandleOwner], list[EngineHandle]],
        *,
        files: FileCache,
        state: Callable[[], EngineState | None],
        on_change: Callable[[], None],
        survivors: Callable[[bool], Survivors],
    ) -> None:
        self._loop = loop
        self.config = config
        self._state = state
        self._unreported = EngineState("starting", "starting", time.time())
        self._on_change = on_change
        self._files = files
        self._info: ModelInfo | None = None
        self.text: TextModel | None = None
        # Now, and not when the engine has loaded for minutes.
        self.problem = tool_parser_problem(config.tool_parser) or template_problem(
            config.chat_template
        )
        self._is_misconfigured = self.problem is not None
        self._loading: asyncio.Task[None] | None = None
        # Custom logits processors may depend on the prompt's length.
        continued = not config.engine_args.get("logits_processors")
        self.engine = EnginePool(
            loop,
            on_model=self._on_model,
            on_lost=on_change,
            survivors=survivors(continued),
        )
        for handle in connect(self.engine):
            self.engine.add(handle)

    @property
    def name(self) -> str:
        """The name that answers carry."""
        return self.config.name

    @property
    def state(self) -> EngineState:
        """The engines' state as the launcher reported it; "starting" before it has."""
        return self._state() or self._unreported

    def not_ready_because(self) -> str | None:
        """Return why a request would not be served now; None if it would."""
        if self.engine.connected:
            return None if self.text else self.problem or "the tokenizer is being loaded"
        if self.engine.refusal:
            return self.engine.refusal
        state = self.state
        if state.state == "ready":
            return "the engine is being connected"
        return f"the engine is {state.state}: {state.detail}"

    async def wait_until_ready(self) -> TextModel:
        """Return the text side, after a short wait if the engine is ready and this worker isn't.

        While an engine that has served restarts, the text side is there and sequences wait for it.

        A worker listens before it is connected to the launcher and the engines. When an engine
        dies, a worker notices that before the launcher reports it. Both take milliseconds, and no
        client should get an error for that.

        Raises:
            EngineUnavailableError: The model is not ready.
        """
        if self.text is not None and self.engine.takes:
            return self.text
        give_up_at = time.monotonic() + _SOON_S
        while (reason := self.not_ready_because()) is not None and self._is_ready_soon():
            if time.monotonic() >= give_up_at:
                break
            await asyncio.sleep(_SOON_POLL_S)
        if reason is not None or self.text is None:
            retry_after_s = _RETRY_AFTER_S[self.state.state]
            raise EngineUnavailableError(reason or "not ready", retry_after_s=retry_after_s)
        return self.text

    def _is_ready_soon(self) -> bool:
        reported = self._state()
        hopeless = self.problem or self.engine.refusal
        return not hopeless and (reported is None or reported.state == "ready")

    def _on_model(self, info: ModelInfo) -> None:
        before, self._info = self._info, info
        same = before is not None and before.files == info.files
        if same and self.text is not None:
            self.text.info = info
            self._on_change()
            return
        if self._loading is not None and not self._loading.done():
            if same:
                return
            self._loading.cancel()
        self.text = None
        if self._is_misconfigured:
            return
        self._loading = self._loop.create_task(self._load(info))

    async def _load(self, info: ModelInfo) -> None:
        try:
            files = await self._files.load(self.config.model_id, info.files, self.engine.read_file)
            self.text = await self._loop.run_in_executor(
                None, load_text_model, info, self.config, files
            )
            self.problem = None
        except EngineUnavailableError:
            # The next engine's connection starts this again.
            return
        except (FileCacheError, TextModelError) as error:
            log.error("cannot serve the model's text", model=info.name, reason=error)
            self.problem = str(error)
        self._on_change()
