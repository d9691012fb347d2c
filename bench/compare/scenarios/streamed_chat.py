"""Streamed chat on the real engine: V-Gate, vLLM's Python server in both forms, its Rust server."""

import http.client
import json
import shutil
from collections.abc import Sequence

from bench.compare.contenders import Settings
from bench.compare.load import Load
from bench.compare.service import Running
from bench.compare.stage import Stage, figure, ratio
from bench.compare_answers.difference import first_difference

CONTENDERS = ("vgate", "vllm-serve", "vllm-serve-1p", "vllm-rs")
_COMPILED = ("vgate", "vllm-serve-1p")
_PROBES = (
    "The rain in spring",
    "Tell me about a lighthouse",
    "def add(a, b):",
    "Name three colours and why",
)
_PROBE_TOKENS = 48
_PROBE_TIMEOUT_S = 60
_SHOWN = (
    "requests_per_s",
    "output_tokens_per_s",
    "ttft_ms.p50",
    "ttft_ms.p99",
    "tpot_ms.p50",
    "itl_ms.p99",
    "e2e_ms.p50",
    "e2e_ms.p99",
    "cpu_us_per_token.frontend",
    "cpu_us_per_token.engine",
    "peak_rss_mib.frontend",
)


def streamed_chat(stage: Stage) -> None:
    """Run each number of clients with each length."""
    names = CONTENDERS[:2] if stage.plan.quick else CONTENDERS
    # Clients, tokens, requests: the shortest runs that have a second round where it matters.
    plans = [(32, 64, 128), (32, 256, 64), (128, 64, 256), (128, 256, 128)]
    _run(stage, names, [(32, 64, 64)] if stage.plan.quick else plans, compiled=False)


def compiled_chat(stage: Stage) -> None:
    """The same with compiled models: the best configuration of V-Gate and of vLLM's server."""
    if shutil.which("g++") is None:
        stage.note("Left out: vLLM compiles with g++, which is not installed.")
        return
    _run(stage, _COMPILED, [(32, 64, 256), (128, 64, 512)], compiled=True)


def _run(
    stage: Stage, names: Sequence[str], plans: Sequence[tuple[int, int, int]], *, compiled: bool
) -> None:
    settings = Settings(max_num_seqs=64, max_model_len=2048, compiled=compiled)
    stage.note(
        "All requests are greedy (temperature 0): drawing from 2,048 probabilities for each token "
        "would take the model as long as all the rest, and is not what is compared."
    )
    try:
        with stage.running(*names, settings=settings) as contenders:
            if contenders:
                _measure(stage, contenders, plans)
    finally:
        _judge(stage)  # also what was measured until the time was over


def _measure(
    stage: Stage, contenders: Sequence[Running], plans: Sequence[tuple[int, int, int]]
) -> None:
    _compare_texts(stage, contenders)
    for clients, tokens, requests in plans:
        load = Load(
            clients=clients,
            requests=requests,
            output_tokens=tokens,
            temperature=0.0,
            warmup=8,
        )
        stage.case(f"{clients} clients, {tokens} tokens", load, contenders, _SHOWN)


def _judge(stage: Stage) -> None:
    for case in stage.result.cases:
        for peer, least in (("vllm-serve", 2.5), ("vllm-serve-1p", 1.5)):
            what = f"{case.name}: requests/s over {peer}"
            stage.target(what, ratio(case, peer, "requests_per_s"), at_least=least)
            what = f"{case.name}: TTFT p99 over {peer}"
            stage.target(what, ratio(case, peer, "ttft_ms.p99"), at_most=0.5)
        measure = "cpu_us_per_token.frontend"
        for peer, most in (("vllm-serve", 0.25), ("vllm-rs", 1.0)):
            what = f"{case.name}: frontend CPU per token over {peer}"
            stage.target(what, ratio(case, peer, measure), at_most=most)
        what = f"{case.name}: frontend CPU us per token"
        if (value := figure(case, "vgate", measure)) is not None:
            stage.note(f"{what}: {value:g}")


def _compare_texts(stage: Stage, contenders: Sequence[Running]) -> None:
    """Ask everybody the same greedy prompts, one at a time: the texts must be the same."""
    stage.progress.say("comparing greedy texts")
    texts = {
        running.name: [_greedy(running, prompt) for prompt in _PROBES] for running in contenders
    }
    first = contenders[0].name
    wrong = False
    for name, found in texts.items():
        if difference := first_difference(found, texts[first]):
            wrong = True
            stage.fail(f"greedy texts: {name} says {difference.ours}, {first} {difference.theirs}")
    if not wrong:
        stage.note(
            f"{len(_PROBES)} greedy texts of {_PROBE_TOKENS} tokens each are the same from "
            f"{', '.join(texts)}."
        )


def _greedy(running: Running, prompt: str) -> str:
    service = running.service
    body = {
        "model": service.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": _PROBE_TOKENS,
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"}
    if service.api_key:
        headers["Authorization"] = f"Bearer {service.api_key}"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read().decode()
    except OSError as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    if response.status != 200:
        return f"status {response.status}: {answer[:200]}"
    text = str(json.loads(answer)["choices"][0]["message"]["content"])
    # A character that the last token leaves incomplete is shown by some and left out by others.
    return text.rstrip("\ufffd").rstrip()
