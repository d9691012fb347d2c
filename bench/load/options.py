"""A run's options: the command line, and what is rejected before anything is sent."""

import argparse
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

Endpoint = Literal["chat", "completions"]

PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_DEFAULT_REQUESTS = 100
_Group = TypeVar("_Group", bound=msgspec.Struct)


class UsageError(Exception):
    """The run cannot start as requested; the message says why."""


class PromptOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the prompts come from."""

    tokens: int = 64
    same: bool = False
    file: str | None = None
    seed: int = 0


class BodyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every request body carries in addition to its prompt."""

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
    """When requests are sent. With a `rate` the loop is open, without one it is closed."""

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

    Attributes:
        usage: It reports usage, which is exact with `ignore_eos`.
        same: Its text is the first answer's.
        echo: Its text is the prompt over and over, as the dry-run engine answers.
        chunks: How many chunks with content each streamed choice has.
    """

    usage: bool = False
    same: bool = False
    echo: bool = False
    chunks: int | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Credentials are kept out of it, so that it can be written to a file."""

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


def parse(arguments: Sequence[str]) -> tuple[Options, list[tuple[str, str]]]:
    """Return the options, and the headers, which may hold credentials.

    Raises:
        UsageError: An option is wrong, or two of them contradict each other.
    """
    given = _parser().parse_args(arguments)
    if given.pace_rate is not None and given.pace_clients is not None:
        raise UsageError("--clients closes the loop and --rate opens it: give one of them")
    if given.pace_rate is None and (given.pace_uniform or given.pace_max_in_flight):
        raise UsageError("--uniform and --max-in-flight need --rate")
    if given.prompt_file and given.prompt_same:
        raise UsageError("--prompts and --same-prompt exclude each other")
    if given.check_usage and not given.body_include_usage:
        raise UsageError("--check needs the usage that --no-usage does not ask for")
    headers: list[tuple[str, str]] = list(given.header)
    if given.api_key:
        headers.append(("Authorization", f"Bearer {given.api_key}"))
    given.pace_clients = given.pace_clients or 1
    if given.pace_requests is None and given.pace_seconds is None:
        given.pace_requests = _DEFAULT_REQUESTS
    if given.prompt_seed is None:
        # Random, so that a server cannot answer from what it cached in the last run.
        given.prompt_seed = secrets.randbits(32)
    options = Options(
        url=given.url,
        model=given.model,
        body=_group(BodyOptions, given, "body"),
        prompt=_group(PromptOptions, given, "prompt"),
        pace=_group(PaceOptions, given, "pace"),
        check=_group(CheckOptions, given, "check"),
        watch=tuple(given.pid),
        header_names=tuple(name for name, _ in headers),
        allow_remote=given.allow_remote,
        json_file=given.json,
        progress=not given.quiet,
    )
    return options, headers


def _group(kind: type[_Group], given: argparse.Namespace, prefix: str) -> _Group:
    return kind(**{name: getattr(given, f"{prefix}_{name}") for name in kind.__struct_fields__})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the options)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bench.load",
        description="Load an OpenAI-compatible server and measure its answers.",
    )
    parser.add_argument("url", help="such as http://127.0.0.1:8000; a path before /v1 is kept")
    _add_pace(parser.add_argument_group("the load").add_argument)
    _add_request(parser.add_argument_group("the requests").add_argument)
    _add_report(parser.add_argument_group("what is checked and reported").add_argument)
    return parser


def _add_pace(add: Callable[..., Any]) -> None:
    add("--clients", dest="pace_clients", type=positive, metavar="N",
        help="closed loop: each sends its next request when the last ends (default 1)")  # fmt: skip
    add("--rate", dest="pace_rate", type=_above_zero, metavar="R",
        help="open loop: requests per second")  # fmt: skip
    add("--uniform", dest="pace_uniform", action="store_true",
        help="even gaps between arrivals instead of Poisson")  # fmt: skip
    add("--max-in-flight", dest="pace_max_in_flight", type=positive, metavar="N",
        help="open loop: hold requests back beyond this many")  # fmt: skip
    add("--requests", dest="pace_requests", type=positive, metavar="N",
        help=f"default {_DEFAULT_REQUESTS}")  # fmt: skip
    add("--seconds", dest="pace_seconds", type=_above_zero, metavar="S",
        help="send for this long, then await the rest")  # fmt: skip
    add("--warmup", dest="pace_warmup", type=_not_negative, default=0, metavar="N",
        help="requests that are not counted")  # fmt: skip
    add("--timeout", dest="pace_timeout_s", type=_above_zero, default=600.0, metavar="S",
        help="per request")  # fmt: skip
    add("--no-keepalive", dest="pace_keepalive", action="store_false",
        help="a connection for each request")  # fmt: skip
    add("--allow-remote", action="store_true", help="the target may be another machine")


def _add_request(add: Callable[..., Any]) -> None:
    add("--endpoint", dest="body_endpoint", choices=tuple(PATHS), default="chat")
    add("--model", help="default: the first that the server lists")
    add("--no-stream", dest="body_stream", action="store_false", help="ask for whole answers")
    add("--no-usage", dest="body_include_usage", action="store_false",
        help="do not ask for usage; count chunks as tokens")  # fmt: skip
    add("--prompt-tokens", dest="prompt_tokens", type=positive, default=64, metavar="N",
        help="approximate length of a prompt")  # fmt: skip
    add("--same-prompt", dest="prompt_same", action="store_true",
        help="one prompt for all requests: may be cached")  # fmt: skip
    add("--prompts", dest="prompt_file", metavar="FILE.jsonl",
        help="lines with `prompt` or `messages`, and maybe `max_tokens`")  # fmt: skip
    add("--seed", dest="prompt_seed", type=_not_negative, metavar="N",
        help="of prompts and arrivals (default random)")  # fmt: skip
    add("--max-tokens", dest="body_max_tokens", type=positive, default=64, metavar="N")
    add("--ignore-eos", dest="body_ignore_eos", action="store_true",
        help="generate exactly --max-tokens")  # fmt: skip
    add("--temperature", dest="body_temperature", type=float, metavar="T")
    add("--extra", dest="body_extra", type=_fields, default={}, metavar="JSON",
        help="merged into the body")  # fmt: skip
    add("--api-key", metavar="KEY", help="sent as a bearer token, never written anywhere")
    add("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'")


def _add_report(add: Callable[..., Any]) -> None:
    add("--check", dest="check_usage", action="store_true",
        help="usage must be reported, and be exact with --ignore-eos")  # fmt: skip
    add("--expect-same", dest="check_same", action="store_true",
        help="all answers must have the same text")  # fmt: skip
    add("--expect-echo", dest="check_echo", action="store_true",
        help="the text must be the prompt, over and over")  # fmt: skip
    add("--expect-chunks", dest="check_chunks", type=positive, metavar="N",
        help="each answer must have this many chunks with content")  # fmt: skip
    add("--pid", type=_watched, action="append", default=[], metavar="NAME=PID",
        help="also measure this process's CPU time and memory (repeatable)")  # fmt: skip
    add("--json", metavar="FILE", help="write settings and results to it")
    add("--quiet", action="store_true", help="no progress on stderr")


def positive(text: str) -> int:
    """Read a command line's number of at least 1."""
    return _checked(int(text), int(text) >= 1, "at least 1")


def _not_negative(text: str) -> int:
    return _checked(int(text), int(text) >= 0, "at least 0")


def _above_zero(text: str) -> float:
    return _checked(float(text), 0 < float(text) < float("inf"), "above 0")


_Number = TypeVar("_Number", int, float)


def _checked(value: _Number, fits: bool, wanted: str) -> _Number:
    if not fits:
        raise argparse.ArgumentTypeError(f"must be {wanted}")
    return value


def _watched(text: str) -> tuple[str, int]:
    name, _, pid = text.partition("=")
    if not name or not pid.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PID")
    return name, int(pid)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not 'Name: value'")
    return name.strip(), value.strip()


def _fields(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from None
