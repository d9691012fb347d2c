"""The command line: its options, and what is refused before anything is sent."""

import argparse
import secrets
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from bench.load.options import (
    BodyOptions,
    CheckOptions,
    Options,
    PaceOptions,
    PromptOptions,
    UsageError,
)

_DEFAULT_REQUESTS = 100


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the options)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bench.load",
        description="Load an OpenAI-compatible server and measure its answers.",
    )
    add = parser.add_argument
    add("url", help="such as http://127.0.0.1:8000; a path before /v1 is kept")
    _add_pace(parser)
    _add_request(parser)
    group = parser.add_argument_group("what is checked and reported")
    add = group.add_argument
    add("--check", action="store_true", help="usage must be there, and exact with --ignore-eos")
    add("--expect-same", action="store_true", help="all answers must have the same text")
    add("--expect-echo", action="store_true", help="the text must be the prompt, over and over")
    add("--expect-chunks", type=_positive, metavar="N", help="so many chunks with content each")
    add("--pid", type=_watched, action="append", default=[], metavar="NAME=PID",
        help="also measure this process's CPU time and memory (repeatable)")  # fmt: skip
    add("--json", metavar="FILE", help="write settings and results there")
    add("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _add_pace(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the load").add_argument
    add(
        "--clients",
        type=_positive,
        metavar="N",
        help="closed loop: each sends the next request when its last one ended (default 1)",
    )
    add("--rate", type=_above_zero, metavar="R", help="open loop: requests per second")
    add("--uniform", action="store_true", help="even gaps between arrivals in place of Poisson")
    add("--max-in-flight", type=_positive, metavar="N", help="open loop: hold back beyond these")
    add("--requests", type=_positive, metavar="N", help=f"default {_DEFAULT_REQUESTS}")
    add("--seconds", type=_above_zero, metavar="S", help="send for so long, then await the rest")
    add("--warmup", type=_not_negative, default=0, metavar="N", help="requests not counted")
    add("--timeout", type=_above_zero, default=600.0, metavar="S", help="per request")
    add("--no-keepalive", action="store_true", help="a connection for each request")
    add("--allow-remote", action="store_true", help="the target may be another machine")


def _add_request(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the requests").add_argument
    add("--endpoint", choices=("chat", "completions"), default="chat")
    add("--model", help="default: the first that the server lists")
    add("--no-stream", action="store_true", help="ask for whole answers")
    add("--no-usage", action="store_true", help="do not ask for usage; count chunks as tokens")
    add("--prompt-tokens", type=_positive, default=64, metavar="N", help="about that many")
    add("--same-prompt", action="store_true", help="one prompt for all: may be cached")
    add("--prompts", metavar="FILE.jsonl", help="lines with `prompt` or `messages`")
    add("--seed", type=_not_negative, help="of prompts and arrivals; default: a new one")
    add("--max-tokens", type=_positive, default=64, metavar="N")
    add("--ignore-eos", action="store_true", help="generate exactly --max-tokens")
    add("--temperature", type=float)
    add("--extra", type=_fields, default={}, metavar="JSON", help="merged into the body")
    add("--api-key", metavar="KEY", help="sent as a bearer token, never written anywhere")
    add("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'")


def parse(arguments: Sequence[str]) -> tuple[Options, list[tuple[str, str]]]:
    """Return the options, and beside them the headers that may hold credentials.

    Raises:
        UsageError: an option is wrong, or two do not go together.
    """
    given = _parser().parse_args(arguments)
    if given.rate is not None and given.clients is not None:
        raise UsageError("--clients closes the loop and --rate opens it: give one of them")
    if given.rate is None and (given.uniform or given.max_in_flight):
        raise UsageError("--uniform and --max-in-flight need --rate")
    if given.prompts and given.same_prompt:
        raise UsageError("--prompts and --same-prompt exclude each other")
    if given.check and given.no_usage:
        raise UsageError("--check needs the usage that --no-usage does not ask for")
    headers: list[tuple[str, str]] = list(given.header)
    if given.api_key:
        headers.append(("Authorization", f"Bearer {given.api_key}"))
    return _options(given, headers), headers


def _options(given: argparse.Namespace, headers: list[tuple[str, str]]) -> Options:
    endless = given.requests is None and given.seconds is None
    # Not a fixed seed: a server that cached the last run's answers must not give them again.
    seed = secrets.randbits(32) if given.seed is None else given.seed
    return Options(
        url=given.url,
        model=given.model,
        body=BodyOptions(
            endpoint=given.endpoint,
            stream=not given.no_stream,
            max_tokens=given.max_tokens,
            ignore_eos=given.ignore_eos,
            temperature=given.temperature,
            extra=given.extra,
            include_usage=not given.no_usage,
        ),
        prompt=PromptOptions(
            tokens=given.prompt_tokens, same=given.same_prompt, file=given.prompts, seed=seed
        ),
        pace=PaceOptions(
            clients=given.clients or 1,
            rate=given.rate,
            uniform=given.uniform,
            max_in_flight=given.max_in_flight,
            requests=_DEFAULT_REQUESTS if endless else given.requests,
            seconds=given.seconds,
            warmup=given.warmup,
            timeout_s=given.timeout,
            keepalive=not given.no_keepalive,
        ),
        check=CheckOptions(
            usage=given.check,
            same=given.expect_same,
            echo=given.expect_echo,
            chunks=given.expect_chunks,
        ),
        watch=tuple(given.pid),
        header_names=tuple(name for name, _ in headers),
        allow_remote=given.allow_remote,
        json_file=given.json,
        progress=not given.quiet,
    )
