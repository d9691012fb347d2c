"""The account of a start, from its log; without a start."""

import os
from datetime import UTC, datetime

import pytest

from bench.load.processes import memory_kib
from bench.start import Part, Start, account, middle, packages

IMPORTS = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   torch._C
import time:      2000 |       2100 | torch
import time:        30 |         30 | vllm
"""


def line(at: float, process: str, event: str, **fields: str) -> dict:
    ts = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return {"ts": ts, "process": process, "event": event, **fields}


LOG = [
    line(101, "launcher", "process started", name="engine"),
    line(101.5, "launcher", "process started", name="frontend-1"),
    line(102, "frontend-1", "frontend listens"),
    line(103, "engine", "engine starting", phase="importing vLLM"),
    line(110, "engine", "engine starting", phase="loading weights"),
    line(112, "engine", "engine ready"),
    line(112.5, "frontend-1", "the model's text is read"),
    line(120, "engine", "engine starting", phase="not of this start"),
]


def test_every_second_is_in_one_part() -> None:
    parts = list(account(LOG, 100.0, 113.0))
    assert sum(part.seconds for part in parts if not part.beside) == pytest.approx(13.0)
    found = {part.title: round(part.seconds, 3) for part in parts}
    assert found["engine: importing vLLM"] == 7
    assert found["engine: loading weights"] == 2
    assert found["frontend: connects, reads the tokenizer"] == 0.5
    assert found["frontend-1: until it listens"] == 0.5


def test_a_wake_begins_with_its_request() -> None:
    parts = [part for part in account(LOG, 102.5, 113.0) if not part.beside]
    assert sum(part.seconds for part in parts) == pytest.approx(10.5)


def test_the_middle_of_starts_is_taken_by_part() -> None:
    starts = [Start(total_s=n, parts=[Part("a", n), Part("b", 1, beside=True)]) for n in (3, 1, 2)]
    assert middle(starts) == [
        Part("a", 2),
        Part("b", 1, beside=True),
        Part("until the first token", 2),
    ]


def test_imports_are_summed_by_package() -> None:
    assert packages(IMPORTS)[:2] == [Part("import torch", 0.0021), Part("import vllm", 0.00003)]


def test_a_process_s_share_of_its_memory_is_the_smaller_part() -> None:
    found = memory_kib(os.getpid())
    pss, rss = found["Pss"], found["Rss"]
    assert 0 < pss <= rss
