"""The table of endpoints: path, method, handler. Adding one is a file and a line here."""

import difflib
from collections.abc import Awaitable, Callable
from functools import wraps

import msgspec

from vgate.errors import MethodNotAllowedError, NotFoundError, VGateError
from vgate.frontend.apis.anthropic import models as anthropic_models
from vgate.frontend.apis.anthropic.errors import anthropic_error, anthropic_event
from vgate.frontend.apis.anthropic.messages.endpoint import count_tokens, messages
from vgate.frontend.apis.anthropic.messages.request import CountTokensRequest, MessagesRequest
from vgate.frontend.apis.last_event import LastEvent, last_event
from vgate.frontend.apis.model_names import PREFIX as MODELS_PREFIX
from vgate.frontend.apis.openai import models
from vgate.frontend.apis.openai.chat.endpoint import chat_completions
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.classify import ClassifyRequest, classify
from vgate.frontend.apis.openai.completions.endpoint import completions
from vgate.frontend.apis.openai.completions.request import CompletionRequest
from vgate.frontend.apis.openai.embeddings import (
    EmbeddingRequest,
    PoolingRequest,
    embeddings,
    pooling,
)
from vgate.frontend.apis.openai.errors import openai_error, openai_event
from vgate.frontend.apis.openai.invocations import invocations
from vgate.frontend.apis.openai.responses import endpoint as responses
from vgate.frontend.apis.openai.responses.request import ResponsesRequest
from vgate.frontend.apis.openai.responses.stream import responses_event
from vgate.frontend.apis.openai.scoring import RerankRequest, ScoreRequest, rerank, score
from vgate.frontend.apis.openai.tokenize import (
    DetokenizeRequest,
    TokenizeText,
    detokenize,
    tokenize,
    tokenizer_info,
)
from vgate.frontend.apis.system import admin, engines, hosts, keys, page, residency
from vgate.frontend.apis.system.health import health, load, ping, ready, version
from vgate.frontend.apis.system.openapi import openapi
from vgate.frontend.apis.system.stats import show_metrics, stats
from vgate.frontend.apis.system.usage import usage
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.services import Services

Handler = Callable[[Services, HttpRequest], Awaitable[Response | None]]

# Turns an error into the response that a path's clients understand, or into the last event of a
# stream that has no other.
ErrorFormat = Callable[[HttpRequest, VGateError], Response]
ErrorEvent = Callable[[HttpRequest, VGateError], bytes]


def _never(_http: HttpRequest) -> bool:
    return False


class Route(msgspec.Struct, frozen=True):
    """One endpoint.

    Attributes:
        path: An exact path; or a prefix, if it ends in "/".
        method: The methods it takes, separated by ", "; GET includes HEAD.
        quiet: Its requests are not logged, because probes send one every few seconds.
        public: It needs no key, because anyone may have it.
        errors: The format of its errors, and of those of paths below it.
        counts_tokens: Its requests are counted together with the tokens that they may use.
        admin: Only an admin's key may send it, or any local client where no keys are required. Its
            requests don't count, so that whoever looks on can go on doing so.
        is_free: Its requests don't count towards limits either.
        takes_up: Whether a request goes on with a stream, and counts with the one that began it.
        requests: The structs that its body may be, for the OpenAPI document.
    """

    path: str
    method: str
    handler: Handler
    quiet: bool = False
    public: bool = False
    errors: ErrorFormat = openai_error
    counts_tokens: bool = False
    admin: bool = False
    is_free: bool = False
    takes_up: Callable[[HttpRequest], bool] = _never
    requests: tuple[type[msgspec.Struct], ...] = ()

    @property
    def methods(self) -> list[str]:
        """Every method it takes."""
        named = self.method.split(", ")
        return [*named, "HEAD"] if "GET" in named else named


def _has_last_event(http: HttpRequest) -> bool:
    return last_event(http) is not None


def _generating(
    path: str, handler: Handler, request: type[msgspec.Struct], errors: ErrorFormat = openai_error
) -> Route:
    """Return the route of an endpoint that uses the engine."""
    return Route(path, "POST", handler, errors=errors, counts_tokens=True, requests=(request,))


def _streaming(
    path: str, handler: Handler, request: type[msgspec.Struct], errors: ErrorFormat = openai_error
) -> Route:
    """Return the route of an endpoint whose streams can be taken up again, by GET as well."""

    async def resumed(services: Services, http: HttpRequest, last: LastEvent) -> Response | None:
        await services.pipeline.take_up(http, last.stream, last.received)
        return await handler(services, http)

    @wraps(handler)
    def resuming(services: Services, http: HttpRequest) -> Awaitable[Response | None]:
        if (last := last_event(http)) is not None and http.method != "HEAD":
            return resumed(services, http, last)
        if http.method != "POST":
            message = f"{path} takes GET only with `Last-Event-ID`, to take up a stream"
            raise MethodNotAllowedError(message, allow="POST")
        return handler(services, http)

    route = _generating(path, resuming, request, errors)
    return msgspec.structs.replace(route, method="POST, GET", takes_up=_has_last_event)


def _models_error(http: HttpRequest, error: VGateError) -> Response:
    """Return the response to a request for models that failed, in the format of its client."""
    is_anthropic = anthropic_models.is_asked(http)
    return (anthropic_error if is_anthropic else openai_error)(http, error)


def _models(path: str, openai: Handler, anthropic: Handler) -> Route:
    """Return the route of a path that OpenAI's and Anthropic's APIs both have.

    It counts towards no limit: chat programs list the models with every page that they open.
    """

    @wraps(openai)
    def either(services: Services, http: HttpRequest) -> Awaitable[Response | None]:
        return (anthropic if anthropic_models.is_asked(http) else openai)(services, http)

    return Route(path, "GET", either, errors=_models_error, is_free=True)


ROUTES: tuple[Route, ...] = (
    _streaming("/v1/chat/completions", chat_completions, ChatRequest),
    _streaming("/v1/completions", completions, CompletionRequest),
    _streaming("/v1/responses", responses.responses, ResponsesRequest),
    Route(
        responses.PREFIX,
        "GET, DELETE, POST",
        responses.stored_response,
        takes_up=responses.is_streamed,
    ),
    _streaming("/v1/messages", messages, MessagesRequest, errors=anthropic_error),
    Route(
        "/v1/messages/count_tokens",
        "POST",
        count_tokens,
        errors=anthropic_error,
        requests=(CountTokensRequest,),
    ),
    _models("/v1/models", models.list_models, anthropic_models.list_models),
    _models(MODELS_PREFIX, models.retrieve_model, anthropic_models.retrieve_model),
    _generating("/v1/embeddings", embeddings, EmbeddingRequest),
    _generating("/pooling", pooling, PoolingRequest),
    _generating("/classify", classify, ClassifyRequest),
    _generating("/v1/score", score, ScoreRequest),
    _generating("/v1/rerank", rerank, RerankRequest),
    msgspec.structs.replace(
        _streaming("/invocations", invocations, ChatRequest),
        requests=(ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest, ScoreRequest),
    ),
    Route("/tokenize", "POST", tokenize, requests=(TokenizeText, ChatRequest)),
    Route("/detokenize", "POST", detokenize, requests=(DetokenizeRequest,)),
    Route("/tokenizer_info", "GET", tokenizer_info),
    Route("/", "GET", page.root, quiet=True),
    Route("/docs", "GET", page.docs, quiet=True, public=True),
    Route(page.PREFIX, "GET", page.page_file, quiet=True, public=True),
    Route("/version", "GET", version),
    Route("/health", "GET", health, quiet=True),
    Route("/ready", "GET", ready, quiet=True),
    Route("/ping", "GET, POST", ping, quiet=True),
    Route("/load", "GET", load, quiet=True),
    Route("/metrics", "GET", show_metrics, quiet=True),
    Route("/stats", "GET", stats, quiet=True),
    Route("/v1/usage", "GET", usage, is_free=True),
    Route("/admin/keys", "GET, POST", keys.keys, admin=True, requests=(keys.NewKey,)),
    Route(keys.PREFIX, "DELETE, POST", keys.one_key, admin=True),
    Route("/admin/requests", "GET", admin.list_requests, quiet=True, admin=True),
    Route(admin.REQUESTS, "POST", admin.cancel_request, admin=True),
    Route("/admin/hosts", "GET, POST", hosts.hosts, admin=True, requests=(hosts.NewInvitation,)),
    Route(hosts.PREFIX, "DELETE", hosts.one_host, admin=True),
    # A token is what is needed instead of a key.
    Route(
        "/engines/join",
        "POST",
        hosts.join,
        public=True,
        is_free=True,
        requests=(hosts.JoinRequest,),
    ),
    Route("/admin/engines", "GET", engines.list_engines, quiet=True, admin=True),
    Route(engines.PREFIX, "POST", engines.order, admin=True, requests=(engines.EngineOptions,)),
    Route("/admin/models", "GET", residency.list_residency, quiet=True, admin=True),
    Route(
        residency.PREFIX,
        "POST",
        residency.order_model,
        admin=True,
        requests=(residency.UnloadOptions,),
    ),
    Route("/openapi.json", "GET", openapi(lambda: ROUTES)),
)

_EXACT = {route.path: route for route in ROUTES if not route.path[1:].endswith("/")}
_EVENTS = {"/v1/messages": anthropic_event, "/v1/responses": responses_event}
_METHODS = {route.path: frozenset(route.methods) for route in ROUTES}
# Characters of an unknown path that an error shows, and how similar (difflib's ratio) a known path
# must be to be suggested.
_SHOWN_CHARS, _SIMILAR = 100, 0.8
_PREFIXES = [route for route in ROUTES if route.path[1:].endswith("/")]


def canonical(path: str) -> str:
    """Return the endpoint's path for one with a slash at its end, without /v1 or with two of it.

    Programs put such paths together from a base URL that isn't quite what they expect. The name of
    a key may end in a slash, and without it would be another key's. Cohere's /v2/rerank is
    /v1/rerank, as in vLLM.
    """
    if path in _EXACT or path.startswith(keys.PREFIX):
        return path
    plain = path.rstrip("/")
    if plain == "/v2/rerank":
        return "/v1/rerank"
    for candidate in (plain, f"/v1{plain}", plain.removeprefix("/v1")):
        if _find(candidate) is not None:
            return candidate
    return path


def _find(path: str) -> Route | None:
    if (route := _EXACT.get(path)) is not None:
        return route
    return next((r for r in _PREFIXES if path.startswith(r.path) and path != r.path), None)


def error_format(path: str) -> ErrorFormat:
    """Return the format of errors for a path, whether it exists or not."""
    found = (r.errors for r in ROUTES if path == r.path or path.startswith(f"{r.path}/"))
    return next(found, openai_error)


def error_event(path: str) -> ErrorEvent:
    """Return the format of the error that ends a stream of a path."""
    return _EVENTS.get(path, openai_event)


def match(method: str, path: str) -> Route:
    """Find the endpoint.

    Raises:
        NotFoundError: No endpoint has the path.
        MethodNotAllowedError: The endpoint takes other methods.
    """
    route = _find(path)
    if route is None:
        shown = path if len(path) <= _SHOWN_CHARS else f"{path[:_SHOWN_CHARS]}..."
        close = difflib.get_close_matches(shown, _METHODS, n=1, cutoff=_SIMILAR)
        meant = f"did you mean {close[0]}? " if close else ""
        raise NotFoundError(f"there is no {shown}; {meant}GET /openapi.json lists all paths")
    if method not in _METHODS[route.path]:
        raise MethodNotAllowedError(
            f"{path} takes {route.method}, not {method}", allow=route.method
        )
    return route
