"""Writing never waits for a reader, whether it is the launcher that writes or its children."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vgate.launcher.child import Child, RestartPolicy
from vgate.launcher.output import JSONLines, Output, unblocked

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
PATIENCE_S = 30


@pytest.fixture
def pipe():
    """A small pipe that nobody reads yet: (reading, writing)."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    os.close(reading)


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])


def read_all(fd: int, output: Output) -> bytes:
    """Read until everything was written."""
    found = bytearray()
    os.set_blocking(fd, False)
    deadline = time.monotonic() + PATIENCE_S
    done = False
    while time.monotonic() < deadline:
        try:
            found += os.read(fd, 65536)
        except BlockingIOError:
            if done:
                return bytes(found)
            done = output.wait_written(0.01)
    raise AssertionError(found[-200:])


def test_lines_that_nobody_reads_are_dropped_counted_and_told(pipe):
    reading, writing = pipe
    output = Output(writing)
    written = [f"line {number} {'x' * 100}" for number in range(20_000)]
    for line in written:
        output.write(line + "\n")
    assert not output.wait_written(0.1)
    lines = read_all(reading, output).decode().splitlines()
    kept, told = lines[:-1], lines[-1]
    assert kept == written[: len(kept)]
    assert told == f"log lines were dropped: {20_000 - len(kept)}"
    output.write("and on\n")
    assert read_all(reading, output) == b"and on\n"


def test_a_reader_that_is_gone_is_no_error(pipe):
    _, writing = pipe
    reading, writing = os.pipe()
    os.close(reading)
    output = Output(writing)
    output.write("x\n")
    assert output.wait_written(PATIENCE_S)


def test_a_descriptor_that_another_program_made_non_blocking_loses_nothing(pipe):
    reading, writing = pipe
    os.set_blocking(writing, False)
    output = Output(writing)
    text = "".join(f"{number}\n" for number in range(10_000))
    output.write(text)
    assert read_all(reading, output).decode() == text


PRINT = """
import os, sys
for number in range(20_000):
    print("out", number)
    os.write(2, b"err %d\\n" % number)
print("an unfinished line", end="")
"""


def run(output: Output, program: str) -> Child:
    child = Child("c", ["-c", program], RestartPolicy(0, 1.0), output=output)
    child.start(0.0)
    return child


def test_a_child_prints_as_much_as_it_likes(pipe):
    reading, writing = pipe
    output = Output(writing)
    child = run(output, PRINT)
    assert child.wait(PATIENCE_S)  # while nobody reads
    output.end()
    kept = read_all(reading, output).decode().splitlines()
    expected = [f"{name} {number}" for number in range(20_000) for name in ("out", "err")]
    assert kept[:5000] == expected[:5000]


def test_a_childs_last_line_comes_before_ours_on_its_death(pipe):
    reading, writing = pipe
    output = Output(writing)
    child = run(output, "print('last words', end='')")
    deadline = time.monotonic() + PATIENCE_S
    while child.died(0.0) is None:
        assert time.monotonic() < deadline
    output.write("it died\n")
    assert read_all(reading, output) == b"last words\nit died\n"


def test_two_children_do_not_mix_their_lines(pipe):
    reading, writing = pipe
    output = Output(writing)
    program = """
import os, time
for _ in range(50):
    os.write(1, b"half and ")
    time.sleep(0.002)
    os.write(1, b"half\\n")
"""
    children = [run(output, program) for _ in range(3)]
    for child in children:
        assert child.wait(PATIENCE_S)
    output.end()
    assert read_all(reading, output) == b"half and half\n" * 150


def test_the_streams_share_an_output_if_they_are_one_file(tmp_path, monkeypatch):
    with (tmp_path / "one").open("w") as one, (tmp_path / "other").open("w") as other:
        monkeypatch.setattr(sys, "stdout", one)
        monkeypatch.setattr(sys, "stderr", one)
        with unblocked() as output:
            assert sys.stdout is sys.stderr is output
            print("out")
            print("err", file=sys.stderr)
        assert sys.stdout is one
        monkeypatch.setattr(sys, "stderr", other)
        with unblocked() as output:
            assert sys.stdout is not sys.stderr
            print("apart", file=sys.stderr)
    assert (tmp_path / "one").read_text() == "out\nerr\n"
    assert (tmp_path / "other").read_text() == "apart\n"


def test_closed_streams_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with unblocked() as output:
        assert output is None


def test_the_end_is_bounded(pipe):
    _, writing = pipe
    output = Output(writing)
    output.write("x" * 100_000 + "\n")
    ending = threading.Thread(target=output.end)
    ending.start()
    ending.join(PATIENCE_S)
    assert not ending.is_alive()


FOREIGN = """
import os, sys
from vgate import log as logs
logs.configure("engine", level="info", json_format=True)
log = logs.Log("vgate.engine")
log.info("ours", text="a\\r\\nb")
print("a library's print")
os.write(2, b"50%\\r100%\\r\\n\\n")
os.write(2, b"\\xff terminate called")
"""


def test_json_is_all_that_comes_out_in_json_mode(pipe):
    reading, writing = pipe
    output = JSONLines(writing)
    child = run(output, FOREIGN)
    assert child.wait(PATIENCE_S)
    output.end()
    lines = [json.loads(line) for line in read_all(reading, output).decode().splitlines()]
    assert [line["event"] for line in lines] == [
        "ours",
        "a library's print",
        "50%",
        "100%",
        "\ufffd terminate called",
    ]
    assert {line.get("source") for line in lines} == {None, "stderr"}
    assert {line["process"] for line in lines} == {"engine", "c"}
    assert lines[1]["pid"] is None


def test_json_lines_pass_as_they_are(pipe):
    reading, writing = pipe
    output = JSONLines(writing)
    lines = b"".join(b'{"ts":"2026","event":"%d"}\n' % n for n in range(100))
    output.pass_on(lines, "engine")
    assert read_all(reading, output) == lines


READER = """
import os, random
import psutil
from vgate.launcher import output as module

module._GATHER_S = 0.0
reading, writing = os.pipe()
output = module.Output(writing)
pipes = [output.pipe()[0] for _ in range(3)]
rng = random.Random(1)

def pass_on(rounds):
    for _ in range(rounds):
        missing = 0
        for pipe in pipes:
            for _ in range(rng.choice((1, 1, 2, 4))):
                missing += os.write(pipe, b"x" * rng.randrange(50, 1000) + b"\\n")
        while missing:
            missing -= len(os.read(reading, 65536))
    return psutil.Process().memory_info().rss

before = pass_on(200)
print(pass_on(2000) - before)
"""


def test_lines_that_are_passed_on_leave_no_holes_in_the_memory():
    grown = int(subprocess.check_output([sys.executable, "-c", READER], cwd=ROOT))
    assert grown < 2 * MIB
