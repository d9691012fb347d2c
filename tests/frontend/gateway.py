"""A frontend worker in this process: the app behind a fake HTTP server, a real engine loop on the
dry-run backend in a thread, and a launcher that only says what the test has it say."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import msgspec
from granian.rsgi import ProtocolClosed

from vgate.config import Config, EngineSpec, Runtime, local_engines
from vgate.config.schema import Batch, Cache, DryRun, Server
from vgate.config.section import Section
from vgate.engine.backends import load_backend
from vgate.engine.forecast.limits import Limits
from vgate.engine.loop import EngineLoop
from vgate.engine.main import keys_of
from vgate.engine.scheduler import BatchScheduler
from vgate.frontend.app import App
from vgate.wire.codec import decode_to_launcher, encode
from vgate.wire.control import EngineState, LauncherToFrontend, ToLauncher
from vgate.wire.sockets import Router

DEADLINE_S = 20


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll under a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.002)
    return value


class Headers(dict[str, str]):
    """RSGI's, of which each name comes once."""

    def get_all(self, name: str) -> list[str]:
        return [self[name]] if name in self else []


class Scope:
    """What RSGI tells of a request."""

    proto = "http"
    http_version = "1.1"
    client = "127.0.0.1:1"

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method = method
        self.path, _, self.query_string = path.partition("?")
        self.headers = Headers(headers)


class Transport:
    def __init__(self, protocol: "Protocol") -> None:
        self._protocol = protocol

    def send_bytes(self, data: bytes) -> None:
        assert self._protocol.status is not None
        self._protocol.parts.append(data)


class Protocol:
    """The server's side of one exchange, and what the client got.

    Args:
        chunks: The request's body; with None in it the client leaves there.
    """

    def __init__(self, chunks: list[bytes | None]) -> None:
        self._chunks = chunks
        self.read = 0
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.disconnected: asyncio.Future[None] | None = None

    async def __call__(self) -> bytes:
        body = b"".join([chunk async for chunk in self])
        if None in self._chunks:
            raise ProtocolClosed
        return body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in (*self._chunks, b""):
            await asyncio.sleep(0)
            # granian gives an empty one where the body is cut, and at its end.
            self.read += len(chunk or b"")
            yield chunk or b""

    def client_disconnect(self) -> asyncio.Future[None]:
        assert self.disconnected is None or self.disconnected.cancelled()
        self.disconnected = asyncio.get_running_loop().create_future()
        return self.disconnected

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self._begin(status, headers)
        self.parts.append(body)

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Transport:
        self._begin(status, headers)
        return Transport(self)

    def _begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        assert self.status is None, "a second response"
        assert len({name for name, _ in headers}) == len(headers)
        assert all(name == name.lower() for name, _ in headers)
        self.status = status
        self.headers = dict(headers)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[str]:
        return [e.removeprefix("data: ") for e in self.body.decode().split("\n\n") if e]


class Engine(threading.Thread):
    """An engine loop with the dry-run backend, for one of the engines of the topology."""

    def __init__(self, runtime: Runtime, number: int = 0) -> None:
        super().__init__(daemon=True)
        address = runtime.engines[number].address
        self._router = Router(address, keys_of(runtime.config, address))
        self.backend = load_backend("dry_run", runtime.engine_config(number), lambda _phase: None)
        batch = runtime.config.batch
        self.scheduler = BatchScheduler(
            Limits(batch.max_num_seqs, 65_536, batch.max_queue_size, 0.0)
        )
        self._loop = EngineLoop(self.backend, self.scheduler, self._router, clock=time.monotonic)

    @property
    def idle(self) -> bool:
        return not (self.scheduler.waiting or self.scheduler.running or self.backend.has_work())

    def run(self) -> None:
        self._loop.run()
        self._router.close()

    async def stop(self) -> None:
        """End as if killed: nobody is told."""
        self._loop.stop()
        await asyncio.to_thread(self.join, DEADLINE_S)
        assert not self.is_alive()


class Gateway:
    """A worker and its surroundings; an async context manager.

    Args:
        run_dir: Where the sockets are.
        engines: The topology; one engine for each model if it is not given.
        sections: Of the configuration.
    """

    def __init__(
        self, run_dir: Path, *, engines: list[EngineSpec] | None = None, **sections: Section
    ) -> None:
        settings: dict[str, Any] = {
            "dry_run": DryRun(step_ms=0, prefill_tokens_per_s=1e9),
            "batch": Batch(max_num_seqs=8),
            "cache": Cache(enabled=False),
            **sections,
        }
        server = settings.get("server", Server())
        if server.state_dir is None:
            server = msgspec.structs.replace(server, state_dir=str(run_dir / "state"))
        self.config = Config(**{**settings, "server": server})
        self.runtime = Runtime(
            config=self.config,
            backend="dry_run",
            run_dir=str(run_dir),
            engines=engines or local_engines(self.config, str(run_dir)),
        )
        self.engine: Engine | None = None
        self.heard: list[ToLauncher] = []
        self.app = App(self.runtime, 1)

    async def __aenter__(self) -> Self:
        self._launcher = Router(self.runtime.endpoint("control"))
        self._loop = asyncio.get_running_loop()
        self.app.__rsgi_init__(self._loop)
        self._peer = await until(self.hear, "the worker's first beat")
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.app.__rsgi_del__(self._loop)
        if self.engine is not None:
            await self.engine.stop()
        self._launcher.close()

    def hear(self) -> bytes | None:
        """Take what the worker told its launcher; return who it is."""
        peer = None
        while (received := self._launcher.receive()) is not None:
            peer = received[0]
            self.heard.append(decode_to_launcher(received[1]))
        return peer

    def tell(self, message: LauncherToFrontend) -> None:
        """Speak as the launcher."""
        assert self._launcher.send(self._peer, encode(message))

    def tell_state(self, state: Any, detail: str = "x") -> None:
        self.tell(EngineState(state, detail, time.time()))

    async def start_engine(self) -> Engine:
        """Start an engine and wait until the worker would serve."""
        self.engine = Engine(self.runtime)
        self.engine.start()
        await until(lambda: self.app.models.not_ready_because() is None, "the worker is ready")
        return self.engine

    async def replace_worker(self) -> None:
        """End the worker and put another one in its place, which knows nothing of its requests."""
        self.app.__rsgi_del__(self._loop)
        self.app = App(self.runtime, 2)
        self.app.__rsgi_init__(self._loop)
        await until(lambda: self.app.models.not_ready_because() is None, "the worker is ready")

    def begin(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes | None] = b"",
        **headers: str,
    ) -> tuple[Protocol, asyncio.Task[None]]:
        """Send a request; return the exchange and its task."""
        chunks = body if isinstance(body, list) else [body]
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if not isinstance(body, list):
            names.setdefault("content-length", str(len(body)))
        protocol = Protocol(chunks)
        scope: Any = Scope(method, path, names)
        return protocol, asyncio.ensure_future(self.app.__rsgi__(scope, protocol))

    async def request(self, *arguments: Any, **headers: str) -> Protocol:
        """Send a request and wait for its end."""
        protocol, task = self.begin(*arguments, **headers)
        await asyncio.wait_for(task, DEADLINE_S)
        return protocol

    def begin_chat(self, text: str = "Hello!", **fields: Any):
        return self.begin("POST", "/v1/chat/completions", chat_body(self, text, **fields))

    async def chat(self, text: str = "Hello!", **fields: Any) -> Protocol:
        protocol, task = self.begin_chat(text, **fields)
        await asyncio.wait_for(task, DEADLINE_S)
        return protocol


def chat_body(gateway: Gateway, text: str, **fields: Any) -> bytes:
    """Return the body of a chat request with one message."""
    request = {
        "model": gateway.config.model.served_names[0],
        "messages": [{"role": "user", "content": text}],
        **fields,
    }
    return json.dumps(request).encode()


async def post(gateway: Gateway, path: str, body: Any, **headers: str) -> Protocol:
    """Send a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await gateway.request("POST", path, content, **headers)
