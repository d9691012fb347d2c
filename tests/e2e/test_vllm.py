"""The real engine behind the real server: vLLM's CPU build with a tiny model.

float32, because the text must be the same whatever else is in the batch: there the order in which
a kernel adds up numbers never decided about a token.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from tokenizers import Tokenizer

from tests.e2e.instance import Instance, wait_until
from tests.e2e.offline import generate_offline
from tests.e2e.traffic import EngineProbe
from tests.tiny_model.rendering import plain_environment, read_template
from tests.wire.steps import deltas_of
from vgate.launcher.leftovers import shared_memory_of
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Failures, Generate, Step
from vgate.wire.parameters import DEFAULTS, SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]

CONCURRENT = 64
MAX_TOKENS = 48
MAX_MODEL_LEN = 4096
MODEL = "tiny"
RESTART_TIMEOUT_S = 90
SETTINGS: dict[str, Any] = {
    "model__served_model_name": MODEL,
    "model__dtype": "float32",
    "model__max_model_len": MAX_MODEL_LEN,
    "batch__max_num_seqs": CONCURRENT,
    # Tests kill more engines than an operator would accept.
    "supervision__max_restarts": 20,
    # Every answer must come from the engine.
    "cache__enabled": False,
}
SUBJECTS = ("rain", "a lighthouse", "def add(a, b):", "Прага", "数学", "an old 🚂", "salt", "joy")
CONVERSATIONS = [
    [
        {"role": "system", "content": f"You are assistant number {number}."},
        {"role": "user", "content": f"Tell me about {SUBJECTS[number % len(SUBJECTS)]}!"},
    ]
    for number in range(CONCURRENT)
]
# So long that it isn't complete when the engine dies.
LIST = {"type": "array", "items": {"type": "integer"}, "minItems": 400, "maxItems": 400}
Messages = list[dict[str, Any]]


class Prompts:
    """Conversations to token ids, computed without the server."""

    def __init__(self, model: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._template = plain_environment().from_string(read_template(model))

    def ids(self, messages: Messages) -> list[int]:
        text = self._template.render(messages=messages, add_generation_prompt=True)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


@pytest.fixture(scope="module")
def prompts(tiny_model_dir: Path) -> Prompts:
    return Prompts(tiny_model_dir)


@pytest.fixture(scope="module")
def offline(
    tiny_model_dir: Path, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """vLLM's own answers to all conversations."""
    return generate_offline(
        tmp_path_factory.mktemp("offline"),
        tiny_model_dir,
        [prompts.ids(messages) for messages in CONVERSATIONS],
        {"temperature": 0, "max_tokens": MAX_TOKENS},
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
    )


@pytest.fixture(scope="module")
def served(run_dirs: Path, tiny_model_dir: Path) -> Iterator[Instance]:
    """An instance with three frontend workers."""
    with Instance(
        run_dirs, dry_run=False, server__workers=3, model__model_id=str(tiny_model_dir), **SETTINGS
    ) as instance:
        yield instance


@pytest.fixture(scope="module")
def client(served: Instance) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def ask(client: openai.OpenAI, messages: Messages, **params: Any) -> Any:
    params = {"temperature": 0, "max_tokens": MAX_TOKENS, **params}
    return client.chat.completions.create(model=MODEL, messages=messages, **params)  # type: ignore[arg-type]


def text_of(answer: Any) -> str:
    text: str = answer.choices[0].message.content
    return text


async def ask_all(instance: Instance) -> list[tuple[str, str]]:
    """Send all conversations at once, every other one streamed; return text and finish reason."""
    async with instance.async_client() as client:

        async def one(number: int) -> tuple[str, str]:
            common: dict[str, Any] = {
                "model": MODEL,
                "messages": CONVERSATIONS[number],
                "temperature": 0,
                "max_tokens": MAX_TOKENS,
            }
            if number % 2:
                answer = await client.chat.completions.create(**common)
                choice = answer.choices[0]
                return choice.message.content or "", choice.finish_reason
            text, reason = "", ""
            stream = await client.chat.completions.create(**common, stream=True)
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
            return text, reason

        return await asyncio.gather(*(one(number) for number in range(CONCURRENT)))


def assert_as_offline(got: list[tuple[str, str]], offline: list[dict[str, Any]]) -> None:
    expected = [(answer["text"], answer["finish_reason"]) for answer in offline]
    differing = [n for n, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1]]
    assert differing == []


def test_a_single_request_equals_vllms_output(
    client: openai.OpenAI, offline: list[dict[str, Any]], prompts: Prompts
) -> None:
    assert len({answer["text"] for answer in offline}) == CONCURRENT
    for number in range(len(SUBJECTS)):
        messages, expected = CONVERSATIONS[number], offline[number]
        answer = ask(client, messages)
        assert text_of(answer) == expected["text"]
        assert answer.choices[0].finish_reason == expected["finish_reason"]
        assert answer.usage.prompt_tokens == len(prompts.ids(messages))
        assert answer.usage.completion_tokens == len(expected["token_ids"])


def test_a_streamed_answer_equals_vllms_output(
    client: openai.OpenAI, offline: list[dict[str, Any]]
) -> None:
    for number in range(len(SUBJECTS)):
        chunks = list(
            ask(
                client,
                CONVERSATIONS[number],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == offline[number]["text"]
        assert chunks[-1].usage.completion_tokens == len(offline[number]["token_ids"])


def test_64_requests_with_three_workers_equal_vllms_output(
    served: Instance, offline: list[dict[str, Any]]
) -> None:
    assert_as_offline(asyncio.run(ask_all(served)), offline)


def test_64_requests_with_one_worker_equal_vllms_output(
    run_dirs: Path, tiny_model_dir: Path, offline: list[dict[str, Any]]
) -> None:
    with Instance(
        run_dirs, dry_run=False, server__workers=1, model__model_id=str(tiny_model_dir), **SETTINGS
    ) as instance:
        assert_as_offline(asyncio.run(ask_all(instance)), offline)
        with instance.client() as client:
            assert text_of(ask(client, CONVERSATIONS[0])) == offline[0]["text"]


def test_a_stop_string_cuts_the_text_before_it(
    client: openai.OpenAI, offline: list[dict[str, Any]]
) -> None:
    text = offline[0]["text"]
    stop = text[len(text) // 2 :][:4]
    answer = ask(client, CONVERSATIONS[0], stop=[stop])
    assert text_of(answer) == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < len(offline[0]["token_ids"])
    streamed = ask(client, CONVERSATIONS[0], stop=[stop], stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == text_of(answer)


def test_a_stop_token_ends_the_answer_and_counts(
    client: openai.OpenAI, offline: list[dict[str, Any]], prompts: Prompts
) -> None:
    ids = offline[0]["token_ids"]
    place = next(i for i in range(8, len(ids)) if ids[i] not in ids[:i])
    answer = ask(client, CONVERSATIONS[0], extra_body={"stop_token_ids": [ids[place]]})
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == place + 1
    assert text_of(answer) == prompts.tokenizer.decode(ids[:place])


@pytest.mark.parametrize(("end", "named"), [("<|im_end|>", False), ("<|endoftext|>", True)])
def test_an_end_token_other_than_the_tokenizers_is_reported(
    client: openai.OpenAI, prompts: Prompts, end: str, named: bool
) -> None:
    token = prompts.tokenizer.token_to_id(end)
    answer = ask(client, CONVERSATIONS[0], logit_bias={str(token): 100})
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("", "stop")
    assert choice.stop_reason == (token if named else None)


def test_max_tokens_ends_the_answer_with_length(client: openai.OpenAI) -> None:
    answer = ask(client, CONVERSATIONS[0], max_tokens=5, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_min_tokens_delays_a_stop_token(
    client: openai.OpenAI, offline: list[dict[str, Any]]
) -> None:
    first = offline[0]["token_ids"][0]
    extra = {"stop_token_ids": [first], "min_tokens": 10, "ignore_eos": True}
    answer = ask(client, CONVERSATIONS[0], max_tokens=20, extra_body=extra)
    assert answer.usage.completion_tokens >= 10


@pytest.mark.parametrize("seed", [7, 0, -1, -(2**63), 2**63 - 1])
def test_a_seed_makes_sampling_reproducible(client: openai.OpenAI, seed: int) -> None:
    first, second, other = (
        text_of(ask(client, CONVERSATIONS[0], temperature=1, seed=s)) for s in (seed, seed, 12345)
    )
    assert first == second != other


def test_without_a_seed_answers_vary(client: openai.OpenAI) -> None:
    texts = {text_of(ask(client, CONVERSATIONS[0], temperature=1)) for _ in range(3)}
    assert len(texts) == 3


def test_three_choices_differ_and_are_reproducible(client: openai.OpenAI, prompts: Prompts) -> None:
    runs = [ask(client, CONVERSATIONS[1], temperature=1, seed=5, n=3) for _ in range(2)]
    texts = [[choice.message.content for choice in run.choices] for run in runs]
    assert [choice.index for choice in runs[0].choices] == [0, 1, 2]
    assert len(set(texts[0])) == 3
    assert texts[0] == texts[1]
    assert runs[0].usage.prompt_tokens == len(prompts.ids(CONVERSATIONS[1]))


@pytest.mark.parametrize(
    "params",
    [
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 2.0}},
    ],
    ids=str,
)
def test_penalties_change_the_output(client: openai.OpenAI, params: dict[str, Any]) -> None:
    extra = {"ignore_eos": True, **params.pop("extra_body", {})}
    plain, penalised = (
        text_of(ask(client, CONVERSATIONS[2], max_tokens=300, extra_body=body, **more))
        for body, more in (({"ignore_eos": True}, {}), (extra, params))
    )
    assert plain != penalised


def test_top_k_and_min_p_narrow_the_choice(
    client: openai.OpenAI, offline: list[dict[str, Any]]
) -> None:
    for extra in ({"top_k": 1}, {"min_p": 1.0}):
        answer = ask(client, CONVERSATIONS[3], temperature=1, extra_body=extra)
        assert text_of(answer) == offline[3]["text"]
    wide = ask(client, CONVERSATIONS[3], temperature=1, seed=3, extra_body={"top_k": 50_000})
    assert text_of(wide) != offline[3]["text"]


def test_a_too_long_prompt_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, [{"role": "user", "content": "word and another " * MAX_MODEL_LEN}])
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_vllm_is_a_400(client: openai.OpenAI, *, stream: bool) -> None:
    outputs = {"structured_outputs": {"grammar": "root ::= ("}}
    with pytest.raises(openai.BadRequestError, match="rammar") as refused:
        list(ask(client, CONVERSATIONS[0], stream=stream, extra_body=outputs))
    assert refused.value.param == "structured_outputs.grammar"


def test_a_repeated_long_prompt_comes_from_the_prefix_cache(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "a long story about the sea and its ships " * 40}]
    first, second = (ask(client, messages) for _ in range(2))
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second)]
    assert cached[0] == 0
    assert second.usage.prompt_tokens / 2 < cached[1] < second.usage.prompt_tokens
    assert text_of(first) == text_of(second)


def test_a_disconnect_frees_the_kv_blocks(served: Instance, client: openai.OpenAI) -> None:
    with EngineProbe(served.run_dir) as probe:
        probe.wait_idle()
        streams = [
            ask(client, messages, stream=True, max_tokens=4000, extra_body={"ignore_eos": True})
            for messages in CONVERSATIONS[:8]
        ]
        busy = wait_until(lambda: (s := probe.status()).running == 8 and s, 10, "8 running")
        assert busy.kv_cache_usage > 0
        for stream in streams:
            stream.close()
        # 4,000 tokens take much longer than that.
        probe.wait_idle(timeout_s=2)


def test_the_engine_answers_each_bad_request_and_continues(
    served: Instance, prompts: Prompts, offline: list[dict[str, Any]]
) -> None:
    good = pack_token_ids(prompts.ids(CONVERSATIONS[0]))
    greedy = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    bad = {
        1: (pack_token_ids([1] * MAX_MODEL_LEN), greedy),
        2: (b"", greedy),
        3: (pack_token_ids([4_000_000_000]), greedy),
        4: (good, SamplingParams(temperature=0.0, max_tokens=5, min_tokens=9)),
    }
    with EngineProbe(served.run_dir) as probe:
        probe.welcome()
        for number, (prompt, sampling) in bad.items():
            probe.send(Generate(number, prompt, sampling.over(DEFAULTS)))
        # Incomplete parameters get vLLM's defaults and don't crash the engine.
        probe.send(Generate(5, good, greedy))
        codes: dict[int, str] = {}
        tokens: list[int] = []
        finish_reason = None
        while finish_reason is None:
            message = probe.receive()
            if isinstance(message, Failures):
                codes.update({failure.id: failure.code for failure in message.failures})
            elif isinstance(message, Step):
                for delta in deltas_of(message):
                    assert delta.id == 5
                    tokens += delta.token_ids
                    finish_reason = delta.finish_reason
        probe.wait_idle()
    too_long, invalid = "context_length_exceeded", "invalid_value"
    assert codes == {1: too_long, 2: invalid, 3: invalid, 4: invalid}
    assert (tokens, finish_reason) == (offline[0]["token_ids"], offline[0]["finish_reason"])


def test_a_killed_engine_is_restarted(
    served: Instance, client: openai.OpenAI, offline: list[dict[str, Any]]
) -> None:
    killed = served.pid_of("engine")
    stream = ask(client, CONVERSATIONS[0], stream=True, max_tokens=3000)
    first = next(iter(stream))
    assert first.choices
    temporary = (served.run_dir / "engine-0.tmp").readlink()
    assert list(temporary.glob("vllm_dist_*"))
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: served.pids().get("engine", killed) != killed, 20, "a new engine")
    assert not temporary.exists()
    wait_until(served.ready, RESTART_TIMEOUT_S, "ready again")
    assert text_of(ask(client, CONVERSATIONS[0])) == offline[0]["text"]
    assert_as_offline(asyncio.run(ask_all(served)), offline)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"logprobs": True, "top_logprobs": 3},
        {"stop": None},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": LIST}}},
        # These are generated again.
        {"seed": 7, "temperature": 1.0},
        {"presence_penalty": 1.0, "logprobs": True},
    ],
    ids=lambda extra: "-".join(extra) or "plain",
)
def test_a_stream_continues_in_the_next_engine(
    served: Instance, client: openai.OpenAI, extra: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"max_tokens": 1200, "extra_body": {"ignore_eos": True}, **extra}
    if "response_format" in extra:
        del asked["extra_body"]
    if "stop" in extra:
        text = text_of(ask(client, CONVERSATIONS[1], **{**asked, "stop": ["\0never"]}))
        # A late one, if there is a unique one.
        stops = [text[at : at + 12] for at in range(len(text) - 40, len(text) // 2, -7)]
        asked["stop"] = [max(stops, key=text.index)]
    whole = ask(client, CONVERSATIONS[1], **asked)
    backs = served.logs().count("engine is back")
    stream = ask(
        client, CONVERSATIONS[1], stream=True, stream_options={"include_usage": True}, **asked
    )
    chunks = [next(stream) for _ in range(20)]
    os.kill(served.pid_of("engine"), signal.SIGKILL)
    chunks += list(stream)
    assert served.logs().count("engine is back") == backs + 1
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == text_of(whole)
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    if "logprobs" in extra:
        got = [place for choice in choices if choice.logprobs for place in choice.logprobs.content]
        expected = whole.choices[0].logprobs.content
        assert [place.token for place in got] == [place.token for place in expected]
        for place, other in zip(got, expected, strict=True):
            assert place.logprob == pytest.approx(other.logprob, abs=1e-3)
    wait_until(served.ready, RESTART_TIMEOUT_S, "ready again")


def failed_start(run_dirs: Path, **settings: Any) -> tuple[int, str]:
    """Start an instance that can't run; return its exit status and logs."""
    instance = Instance(run_dirs, dry_run=False, server__workers=1, **{**SETTINGS, **settings})
    instance.launch()
    try:
        assert instance.process is not None
        status = instance.process.wait(60)
        return status, instance.logs()
    finally:
        instance.discard()


def test_a_bad_engine_argument_ends_the_start(run_dirs: Path, tiny_model_dir: Path) -> None:
    status, logs = failed_start(
        run_dirs, model__model_id=str(tiny_model_dir), model__engine_args={"blok_size": 16}
    )
    assert status != 0
    assert "model.engine_args.blok_size" in logs.splitlines()[-1]
    assert "did you mean block_size?" in logs.splitlines()[-1]


def test_a_missing_model_ends_the_start_at_once(run_dirs: Path) -> None:
    status, logs = failed_start(run_dirs, model__model_id="/nowhere/model")
    assert status != 0
    assert "there is no directory /nowhere/model" in logs.splitlines()[-1]
    assert "importing vLLM" not in logs


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_tensor_parallel_workers_serve_and_end_with_the_engine(
    run_dirs: Path, tiny_model_dir: Path, offline: list[dict[str, Any]]
) -> None:
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=1,
        model__model_id=str(tiny_model_dir),
        model__tensor_parallel_size=2,
        **SETTINGS,
    ) as instance:
        assert_as_offline(asyncio.run(ask_all(instance)), offline)
        engine = psutil.Process(instance.pid_of("engine"))
        workers = [p for p in engine.children(recursive=True) if "Worker_TP" in p.name()]
        assert len(workers) == 2
        # A worker that dies takes the engine with it, also while nothing runs.
        workers[0].kill()
        wait_until(lambda: ended(engine), 20, "its end")
        wait_until(instance.ready, RESTART_TIMEOUT_S, "ready again")
        with instance.client() as client:
            assert text_of(ask(client, CONVERSATIONS[0])) == offline[0]["text"]
        # Killed together, they remove nothing themselves.
        killed = instance.pid_of("engine")
        memory = shared_memory_of(killed, 0.0)
        assert memory
        os.killpg(killed, signal.SIGSTOP)
        memory |= shared_memory_of(killed, 0.0)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: instance.pids().get("engine", killed) != killed, 20, "a new engine")
        assert not [path for path in memory if path.exists()]
        left = instance.processes()
        instance.stop()
    assert [process for process in left if not ended(process)] == []


def test_seeds_with_more_prompts_than_fit_a_step(served: Instance, client: openai.OpenAI) -> None:
    # Each is longer than vLLM's default budget of a step, 2048 tokens, too.
    messages = [{"role": "user", "content": "the rain and the salt " * 500}]
    pids = served.pids()

    async def run() -> list[str]:
        async with served.async_client() as clients:
            answers = await asyncio.gather(
                *(
                    clients.chat.completions.create(
                        model=MODEL,
                        messages=[*messages, {"role": "user", "content": str(number % 4)}],
                        seed=number % 4,
                        max_tokens=8,
                    )
                    for number in range(8)
                )
            )
            return [text_of(answer) for answer in answers]

    texts = asyncio.run(run())
    assert texts[:4] == texts[4:]
    prompt = ask(client, messages, seed=1).usage.prompt_tokens
    assert prompt > 2048
    assert served.pids() == pids
