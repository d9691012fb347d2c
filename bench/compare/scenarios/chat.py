"""Streamed chat on the real engine: V-Gate, vLLM's Python server in both forms, its Rust server."""

import http.client
import json
import shutil
from collections.abc import Sequence

from bench.compare.run import Run
from bench.compare.service import Running
from bench.compare.settings import Settings
from bench.compare.turn import Load
from bench.compare_answers.difference import first_difference

_SHOWN = ("requests_per_s", "output_tokens_per_s", "ttft_ms.p50", "ttft_ms.p99", "tpot_ms.p50",
          "itl_ms.p99", "e2e_ms.p50", "e2e_ms.p99", "cpu_us_per_token.frontend",
          "cpu_us_per_token.engine", "peak_rss_mib.frontend")  # fmt: skip
_PROBES = (
    "The rain in spring",
    "Tell me about a lighthouse",
    "def add(a, b):",
    "Name three colours and why",
)
_PROBE_TOKENS = 48
_PROBE_TIMEOUT_S = 60
# Clients, tokens, requests: the shortest runs that have a second round where it matters.
_QUICK = [(32, 64, 64)]
_FULL = [(32, 64, 128), (32, 256, 64), (128, 64, 256), (128, 256, 128)]
_COMPILED = [(32, 64, 256), (128, 64, 512)]
# What V-Gate's value over a peer's should be at least or at most.
_AT_LEAST = (("vllm-serve", "requests_per_s", 2.5), ("vllm-serve-1p", "requests_per_s", 1.5))
_AT_MOST = (
    ("vllm-serve", "ttft_ms.p99", 0.5),
    ("vllm-serve-1p", "ttft_ms.p99", 0.5),
    ("vllm-serve", "cpu_us_per_token.frontend", 0.25),
    ("vllm-rs", "cpu_us_per_token.frontend", 1.0),
)
_TITLES = {
    "requests_per_s": "requests/s",
    "ttft_ms.p99": "TTFT p99",
    "cpu_us_per_token.frontend": "frontend CPU per token",
}


def streamed_chat(run: Run) -> None:
    """Measure each number of clients with each length of answers."""
    peers = ("vllm-serve",) if run.quick else ("vllm-serve", "vllm-serve-1p", "vllm-rs")
    _measure(run, ("vgate", *peers), _QUICK if run.quick else _FULL, Settings())


def compiled_chat(run: Run) -> None:
    """The same with compiled models: the best configuration of V-Gate and of vLLM's server."""
    if shutil.which("g++") is None:
        run.note("Left out: vLLM compiles with g++, which is not installed.")
        return
    _measure(run, ("vgate", "vllm-serve-1p"), _COMPILED, Settings(compiled=True))


def _measure(
    run: Run, names: Sequence[str], loads: Sequence[tuple[int, int, int]], settings: Settings
) -> None:
    run.note(
        "All requests are greedy (temperature 0): sampling from 2,048 probabilities for each token "
        "would take the model as long as everything else, and is not what is compared."
    )
    try:
        with run.running(*names, settings=settings) as contenders:
            if contenders:
                _compare_texts(run, contenders)
            for clients, tokens, requests in loads:
                load = Load(clients=clients, requests=requests, max_tokens=tokens,
                            temperature=0.0, warmup=8)  # fmt: skip
                run.case(f"{clients} clients, {tokens} tokens", load, contenders, _SHOWN)
    finally:
        _judge(run)  # also if the time ended: some cases may be complete


def _judge(run: Run) -> None:
    for case in run.result.cases:
        for peer, measure, least in _AT_LEAST:
            what = f"{case.name}: {_TITLES[measure]} over {peer}"
            run.at_least(least, case.ratio(peer, measure), what)
        for peer, measure, most in _AT_MOST:
            what = f"{case.name}: {_TITLES[measure]} over {peer}"
            run.at_most(most, case.ratio(peer, measure), what)
        cost = case.figure("vgate", "cpu_us_per_token.frontend")
        if cost is not None:
            run.note(f"{case.name}: frontend CPU us per token: {cost:g}")


def _compare_texts(run: Run, contenders: Sequence[Running]) -> None:
    """Send all the same greedy prompts, one at a time: the texts must be the same."""
    run.say("comparing greedy texts")
    texts = {one.name: [_greedy(one, prompt) for prompt in _PROBES] for one in contenders}
    first = contenders[0].name
    failed = False
    for name, found in texts.items():
        if difference := first_difference(found, texts[first]):
            failed = True
            run.fail(f"greedy texts: {name} has {difference.ours}, {first} {difference.theirs}")
    if not failed:
        run.note(
            f"{len(_PROBES)} greedy texts of {_PROBE_TOKENS} tokens each are the same from "
            f"{', '.join(texts)}."
        )


def _greedy(running: Running, prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    fields = {"model": "tiny", "messages": messages, "max_tokens": _PROBE_TOKENS, "temperature": 0}
    try:
        status, _, answer = running.service.post(
            "/v1/chat/completions", json.dumps(fields).encode(), _PROBE_TIMEOUT_S
        )
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    if status != 200:
        return f"status {status}: {answer[:200]!r}"
    text = str(json.loads(answer)["choices"][0]["message"]["content"])
    # A character that the last token leaves incomplete is shown by some and left out by others.
    return text.rstrip("\ufffd").rstrip()
