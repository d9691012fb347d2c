"""The load generator's parts that need no connection."""

import random
from math import ceil
from pathlib import Path

import msgspec
import pytest

from bench.load.answer import StreamAnswer
from bench.load.connection import Connection
from bench.load.drive import arrival_times
from bench.load.events import EventSplitter, is_plain_chunk
from bench.load.histogram import Histogram
from bench.load.options import BodyOptions, PromptOptions, UsageError, parse
from bench.load.processes import Watch
from bench.load.prompts import Bodies, Prompts
from bench.load.target import request_head, resolve


def test_quantiles_are_within_one_per_cent() -> None:
    draw = random.Random(2)
    values = sorted(draw.lognormvariate(-4, 2) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for fraction in (0.01, 0.5, 0.9, 0.95, 0.99, 1.0):
        exact = values[ceil(fraction * 5000) - 1]
        assert histogram.quantile_s(fraction) == pytest.approx(exact, rel=0.01)
    assert histogram.count == 5000
    assert histogram.largest_s == values[-1]


def test_gaps_of_zero_count_and_huge_values_do_not_fall_out() -> None:
    histogram = Histogram()
    assert histogram.spread() is None
    for value in (0.0, 0.0, 0.5e-6, 1e9):
        histogram.add(value)
    spread = histogram.spread()
    assert spread is not None
    assert (spread.count, spread.p50, spread.min) == (4, 0.0, 0.0)
    assert spread.max == 1e12


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_do_not_depend_on_how_they_are_cut(end: bytes, size: int) -> None:
    lines = [
        b": comment",
        b'data: {"a":1}',
        b"",
        b"id: 3",
        b"data:b",
        b"data: c",
        b"",
        b"",
        b"data: d",
    ]
    stream = end.join(lines) + end + end
    splitter = EventSplitter()
    events: list[bytes] = []
    for start in range(0, len(stream), size):
        events += splitter.feed(stream[start : start + size])
    assert events == [b'{"a":1}', b"b\nc", b"d"]
    assert not splitter.named_error


def test_the_common_piece_is_not_mistaken_while_an_event_is_open() -> None:
    splitter = EventSplitter()
    assert list(splitter.feed(b"data: a\n")) == []
    assert list(splitter.feed(b"data: b\n\n")) == [b"a\nb"]
    assert list(splitter.feed(b"data: c\n\n")) == [b"c"]
    assert list(splitter.feed(b"event: error\ndata: d\n\n")) == [b"d"]
    assert splitter.named_error


def test_prompts_are_deterministic_and_differ_from_the_front() -> None:
    prompts = Prompts(PromptOptions(tokens=300, seed=5))
    texts = [str(prompts.get(index).prompt) for index in range(-50, 2000)]
    assert all(len(text.split()) == 300 for text in texts)
    assert len({" ".join(text.split()[:8]) for text in texts}) == len(texts)
    assert Prompts(PromptOptions(tokens=300, seed=5)).get(7) == prompts.get(7)
    assert Prompts(PromptOptions(tokens=300, seed=6)).get(7) != prompts.get(7)
    same = Prompts(PromptOptions(tokens=3, same=True))
    assert same.get(1) == same.get(2)


def test_a_prompt_may_be_longer_than_the_prepared_text() -> None:
    text = Prompts(PromptOptions(tokens=20_000)).get(3).prompt
    assert text is not None
    assert len(text.split()) == 20_000


def test_a_body_has_what_was_asked_and_extra_wins() -> None:
    options = BodyOptions(max_tokens=9, ignore_eos=True, temperature=0.0, extra={"max_tokens": 8})
    body = msgspec.json.decode(Bodies("m", options, Prompts(PromptOptions(tokens=2))).get(0))
    assert body.pop("messages")[0]["role"] == "user"
    assert body == {
        "model": "m",
        "max_tokens": 8,
        "ignore_eos": True,
        "min_tokens": 9,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_prompts_come_from_a_file_and_its_faults_are_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "prompts.jsonl"

    def read(text: str) -> Prompts:
        path.write_text(text, encoding="utf-8")
        return Prompts(PromptOptions(file=str(path)))

    prompts = read('{"prompt": "one"}\n\n{"messages": [{"role": "user", "content": "two"}]}\n')
    assert prompts.get(2).prompt == "one"
    with pytest.raises(UsageError, match="completions endpoint"):
        Bodies("m", BodyOptions(endpoint="completions"), prompts)
    for text, fault in (("", "no prompts"), ("{}", "line 1: give"), ("\n{", "line 2")):
        with pytest.raises(UsageError, match=fault):
            read(text)


def test_arrivals_have_the_rate_and_follow_the_seed() -> None:
    def take(seed: int, *, uniform: bool = False) -> list[float]:
        times = arrival_times(50, uniform=uniform, seed=seed)
        return [next(times) for _ in range(5000)]

    assert take(1) == take(1) != take(2)
    assert take(1)[-1] == pytest.approx(100, rel=0.1)
    assert take(1, uniform=True)[:3] == pytest.approx([0, 0.02, 0.04])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("u --clients 2 --rate 3", "give one"),
        ("u --uniform", "need --rate"),
        ("u --clients 0", "at least 1"),
        ("u --rate -1", "above 0"),
        ("u --pid engine", "NAME=PID"),
        ("u --extra [1]", "not a JSON object"),
        ("u --header x", "Name: value"),
        ("u --check --no-usage", "--check needs"),
        ("u --prompts f --same-prompt", "exclude"),
        ("", "required: url"),
    ],
)
def test_wrong_options_are_refused(arguments: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        parse(arguments.split())


def test_credentials_stay_out_of_what_is_written() -> None:
    options, headers = parse(["u", "--api-key", "sekret", "--header", "X-Token: sekret"])
    assert dict(headers) == {"Authorization": "Bearer sekret", "X-Token": "sekret"}
    assert b"sekret" not in msgspec.json.encode(options)


def test_without_a_seed_runs_differ_and_have_an_end() -> None:
    first, second = parse(["u"])[0], parse(["u"])[0]
    assert first.prompt.seed != second.prompt.seed
    assert first.pace.requests == 100
    assert parse(["u", "--seconds", "3"])[0].pace.requests is None


def test_a_target_elsewhere_needs_permission() -> None:
    with pytest.raises(UsageError, match="--allow-remote"):
        resolve("http://192.0.2.1:8000", allow_remote=False)
    assert resolve("http://192.0.2.1:8000", allow_remote=True).port == 8000
    for url in ("ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://a:b@127.0.0.1"):
        with pytest.raises(UsageError):
            resolve(url, allow_remote=False)


def test_the_head_keeps_a_path_before_v1() -> None:
    target = resolve("127.0.0.1:8000/proxy/v1/", allow_remote=False)
    head = request_head("GET", target, "/v1/models", [("A", "b")])
    assert head == b"GET /proxy/v1/models HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nA: b\r\n"
    with pytest.raises(UsageError, match="not a header"):
        request_head("GET", target, "/", [("A", "b\r\nC: d")])


def test_processes_under_one_name_are_summed_and_a_gone_one_is_told(
    tmp_path: Path,
) -> None:
    def write(pid: int, ticks: int, started: int = 5) -> None:
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 6, str(started)]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a ) b) {' '.join(fields)}")
        (tmp_path / str(pid) / "status").write_text("Name: x\nVmHWM:\t 2048 kB\n")

    write(1, 100)
    write(2, 100)
    write(3, 0)
    watch = Watch((("front", 1), ("front", 2), ("other", 3)), tmp_path)
    write(1, 150)
    write(2, 250)
    write(3, 9, started=6)
    front, other = watch.costs(requests=10, output_tokens=100)
    assert (front.cpu_s, front.peak_rss_mib, front.cpu_us_per_request) == (2.0, 4.0, 200_000)
    assert (other.gone, other.cpu_us_per_request) == (1, None)
    with pytest.raises(UsageError, match="no such process"):
        Watch((("x", 99),), tmp_path)


def a_chunk(
    content: str | None, finish_reason: str | None = None, size: int | None = None
) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    event = b"data: %b\n\n" % msgspec.json.encode({"id": "x", "choices": [choice]})
    return b"%X\r\n%b\r\n" % (size or len(event), event)


def test_a_plain_chunk_is_whole_with_text_and_more_to_come() -> None:
    assert is_plain_chunk(a_chunk("a"))
    assert is_plain_chunk(a_chunk('"content":""\n'))
    for other in (a_chunk(""), a_chunk(None), a_chunk("a", "stop"), a_chunk("a")[1:],
                  a_chunk("a")[:-2], a_chunk("a") + a_chunk("b"), a_chunk("a", size=5),
                  b"5\r\n: ok\n\r\n"):  # fmt: skip
        assert not is_plain_chunk(other)


@pytest.mark.parametrize("size", [1, 7, 100, None])
def test_an_answer_does_not_depend_on_how_it_is_read(size: int | None) -> None:
    usage = msgspec.json.encode({"choices": [], "usage": {"completion_tokens": 5}})
    last = b"data: %b\n\ndata: [DONE]\n\n" % usage
    reads = [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        *(a_chunk(text) for text in ("", "a", "b", "", "c", "d")),
        a_chunk("e", "length"),
        b"%X\r\n%b\r\n0\r\n\r\n" % (len(last), last),
    ]
    if size is not None:
        stream = b"".join(reads)
        reads = [stream[start : start + size] for start in range(0, len(stream), size)]
    gaps = Histogram()
    answer = StreamAnswer(0.0, 1, None, gaps)
    connection = Connection()
    connection._answer = answer
    for read in reads:
        connection.data_received(read)
    assert (answer.error, answer.chunks, answer.finished, gaps.count) == (None, 5, 1, 4)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
