"""A served model in a frontend: its engines, and its tokenizer and chat template."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

import msgspec

from vgate.config.model import Model
from vgate.config.models.task import known_task
from vgate.errors import EngineUnavailableError, VGateError
from vgate.frontend.engines.file_cache import FileCacheError, load_files
from vgate.frontend.engines.handle import EngineHandle
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.port import ReplicaState
from vgate.frontend.engines.residency import unavailable
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.parsing import tool_parser_problem
from vgate.frontend.text import (
    TextModel,
    TextModelError,
    load_text_model,
    return_memory,
    template_problem,
)
from vgate.log import Log
from vgate.wire.control import EngineState
from vgate.wire.messages import ModelInfo
from vgate.wire.parameters import Task
from vgate.wire.sockets import is_tcp

_SOON_S = 2.0
_NOT_REACHED = "starting", "it can't be reached on its host"
_SOON_POLL_S = 0.01
# States of a model that was unloaded since it served.
_ENDED = {"unloaded", "queued", "starting", "failed"}
# The text side of a model that is unloaded is kept for so long after its last use.
_TEXT_KEPT_S = 60.0
_RETRY_AFTER_S = {
    "starting": 10.0,
    "restarting": 5.0,
    "ready": 1.0,
    "draining": 5.0,
    "failed": 10.0,
    "unloaded": 5.0,
    "queued": 10.0,
}

log = Log("vgate.frontend")


class ServedModel:
    """One model of the configuration.

    Args:
        config: The model's section of the configuration.
        connect: Returns a handle for each of its engines, by their numbers and in the order of the
            replicas, which are added to the pool that is its argument. Those that come later are
            added to both.
        files: The directory of model files.
        state: Returns the state of these engines that the launcher has reported; None before it
            has.
        on_change: Called when the model becomes ready, or stops being ready.
        survivors: Holds the sequences that wait for an engine.

    Attributes:
        identity: Differs where the same request may have another answer: with other files, or
            other settings of the model.
        info: What an engine has said of the model; None before one has.
        engine: The pool of its engines.
        text: Tokenizer, template and defaults; None until they are loaded.
        residence: Has the requests that wait for the model; None if it always is loaded.
        problem: Why the text side can't be loaded, if that failed.
        on_dropped: Called with a text side that is not kept any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Model,
        connect: Callable[[EnginePool], Mapping[int, EngineHandle]],
        *,
        files: Path,
        state: Callable[[Iterable[int]], EngineState | None],
        on_change: Callable[[], None],
        survivors: Survivors,
    ) -> None:
        self._loop = loop
        self.config = config
        self.name = config.name
        self._state = state
        self._unreported = EngineState("starting", "starting", time.time())
        self._tell_change = on_change
        self._files = files
        self.info: ModelInfo | None = None
        self._likely_task = known_task(config)
        self.identity = b""
        self.text: TextModel | None = None
        # Now, and not when the engine has loaded for minutes.
        self.problem = tool_parser_problem(config.tool_parser) or template_problem(
            config.chat_template
        )
        self._is_misconfigured = self.problem is not None
        self._loading: asyncio.Task[None] | None = None
        self.on_dropped: Callable[[TextModel], None] = lambda _text: None
        self._dropping: asyncio.TimerHandle | None = None
        # When the text side was last used, in the loop's time.
        self._read_at = 0.0
        self._survivors = survivors
        self.engine = EnginePool(
            loop, on_model=self._on_model, on_lost=self._on_change, survivors=survivors
        )
        self.residence = survivors.residence
        self._handles = connect(self.engine)
        for handle in self._handles.values():
            self.engine.add(handle)

    @property
    def state(self) -> EngineState:
        """The engines' state as the launcher reported it; "starting" before it has."""
        return self._state(self._handles) or self._unreported

    @property
    def comes_back(self) -> bool:
        """Whether an engine that has gone is started again, and its sequences go on then."""
        # One that was unloaded ended with its requests.
        ended = self.residence is not None and self.state.state in _ENDED
        return self.engine.takes() and not ended

    def replicas(self) -> list[ReplicaState]:
        """Return the state of each engine."""
        found = []
        for replica, (number, handle) in enumerate(self._handles.items()):
            state, status = self._state([number]) or self._unreported, handle.status
            if not handle.connected and len(self._handles) > 1:
                # Its sequences run in the others now.
                status = msgspec.structs.replace(status, running=0, waiting=0, kv_cache_usage=0.0)
            serves = handle.connected and not status.draining
            if is_tcp(handle.endpoint) and not serves:
                # The launcher knows nothing of an engine on another host.
                name, detail = ("draining", "it drains") if handle.connected else _NOT_REACHED
                state = msgspec.structs.replace(state, state=name, detail=detail)
            found.append(ReplicaState(number, replica, serves, state, status))
        return found

    def not_ready_because(self) -> str | None:
        """Return why a request would not be served now; None if it would, if only in a while."""
        state = self.state
        if self.residence is not None and self._is_resting(state):
            return None
        if self.engine.connected:
            if self.text and not self.engine.accepts:
                return f"the engine takes nothing new: {state.detail}"
            return None if self.text else self.problem or "the tokenizer is being loaded"
        if self.engine.refusal:
            return self.engine.refusal
        if state.state == "ready":
            return "the engine is being connected"
        return f"the engine is {state.state}: {state.detail}"

    def _is_resting(self, state: EngineState) -> bool:
        """Whether the model may be away without a problem: a request has it loaded."""
        # Without one that fails to be loaded at the start, V-Gate would not go on.
        if self.config.load == "on_demand" or state.state in ("unloaded", "queued", "failed"):
            return True
        # It has served, here or before this worker began, and is on its way out or back.
        served = self.info is not None or state.unloads > 0
        on_its_way = state.state in ("draining", "starting", "ready")
        return served and on_its_way and self.problem is None

    def _hopeless_because(self) -> str | None:
        """Return why waiting for the model is useless; None if it isn't."""
        state = self.state
        if state.state == "failed":
            return f"the model `{self.name}` can't be loaded: {state.detail}"
        return self.problem or self.engine.refusal

    def look(self) -> None:
        """End the waits for the model that are over, because it was loaded or can't be."""
        if self.residence is None:
            return
        drained = self.state.state == "draining" and self.state.drained
        self._survivors.expect(self._loop.time(), loads=not drained)
        self.residence.refusal = reason = self._hopeless_because()
        if reason is not None:
            self.end_waits(unavailable(reason), closes=False)
        elif self.text is not None:
            self.residence.end_visits(None)
        if self.text is not None and self._is_unloaded() and self._dropping is None:
            self._dropping = self._loop.call_later(_TEXT_KEPT_S, self._drop_text)

    def _is_unloaded(self) -> bool:
        return self.state.state == "unloaded" and not self.engine.connected

    def _drop_text(self) -> None:
        """Drop the text side if the model is unloaded and nobody uses it: it takes tens of MB."""
        self._dropping = None
        if (text := self.text) is None or not self._is_unloaded():
            return
        left_s = self._read_at + _TEXT_KEPT_S - self._loop.time()
        if left_s > 0 or self.engine.in_flight:
            again_s = max(left_s, _TEXT_KEPT_S / 10)
            self._dropping = self._loop.call_later(again_s, self._drop_text)
            return
        self.text = None
        self.on_dropped(text)
        del text
        return_memory()

    async def recall(self) -> None:
        """Read the text side again that was dropped, if its files are on this machine."""
        if self.text is not None or self.info is None or self._is_misconfigured:
            return
        if self._loading is None or self._loading.done():
            self._loading = self._loop.create_task(self._load(self.info))
        # It may be cancelled for the files of another model.
        await asyncio.wait([self._loading])

    @property
    def task(self) -> Task | None:
        """What it does, as an engine has said, or as its files here tell; None: unknown yet."""
        return self.info.task if self.info is not None else self._likely_task

    def end_waits(self, error: VGateError, *, closes: bool = True) -> None:
        """End what waits for an engine with `error`; if it `closes`, nothing will wait any more."""
        self.engine.fail_waiting(error, closes=closes)
        if self.residence is not None:
            self.residence.closed |= closes
            self.residence.end_visits(error)

    def _on_change(self) -> None:
        self._tell_change()
        self.look()

    async def wait_until_ready(self) -> TextModel:
        """Return the text side, after a short wait if the engine is ready and this worker isn't.

        While an engine that has served restarts, the text side is there and sequences wait for it.

        A worker listens before it is connected to the launcher and the engines. When an engine
        dies, a worker notices that before the launcher reports it. Both take milliseconds, and no
        client should get an error for that.

        Raises:
            EngineUnavailableError: The model is not ready.
        """
        if self.text is not None and (self.engine.takes() or self.residence is not None):
            # What a text alone answers needs no engine, and everything else may wait for one.
            self._read_at = self._loop.time()
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
        reported = self._state(self._handles)
        hopeless = self.problem or self.engine.refusal
        return not hopeless and (reported is None or reported.state == "ready")

    def _on_model(self, info: ModelInfo) -> None:
        before, self.info = self.info, info
        self.identity = identity_of(self.config, info)
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
            model_id, read = self.config.model_id, self.engine.read_file
            files = await load_files(self._files, model_id, info.files, read)
            text = await self._loop.run_in_executor(None, load_text_model, info, self.config, files)
            # An engine that came meanwhile may have another context.
            text.info = self.info or info
            self.text, self.problem = text, None
            log.debug("the model's text is read", model=info.name)
        except EngineUnavailableError:
            # The next engine's connection starts this again.
            return
        except (FileCacheError, TextModelError) as error:
            log.error("cannot serve the model's text", model=info.name, reason=error)
            self.problem = str(error)
        self._on_change()


# Settings that say where a model runs, and nothing about its answers.
_RESOURCES = {
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "distributed_executor_backend",
    "replicas",
    "devices",
    "memory_bytes",
    "load",
    "idle_ttl_s",
    "fill",
}


def identity_of(config: Model, info: ModelInfo) -> bytes:
    """Return what differs where the same request may have another answer."""
    settings = msgspec.to_builtins(config) | {"task": info.task}
    shaping = {name: value for name, value in settings.items() if name not in _RESOURCES}
    said = msgspec.json.encode([shaping, info.fingerprint, info.backend], order="sorted")
    return blake2b(said, digest_size=16).digest()
