"""Each event is one line, in both formats, with any values of its fields."""

import asyncio
import fcntl
import io
import json
import logging
import os
import re
import sys
import threading
from datetime import datetime

import pytest

from vgate import log as logs
from vgate.library_logs import adopt
from vgate.log import JSONFormatter, Log, PlainFormatter


@pytest.fixture
def root():
    """The root logger, restored afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def written(root, monkeypatch):
    """Return a function that configures logging; it returns one that returns the lines so far."""
    stream = io.StringIO()

    def configure(level="debug", *, json_format=True):
        # In the test itself, because pytest replaces stderr for each phase.
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure("engine", level=level, json_format=json_format)
        return lambda: stream.getvalue().removesuffix("\n").split("\n")

    return configure


def test_json_has_the_fixed_fields_and_those_of_the_event(written):
    lines = written()
    Log("vgate.test").info("request finished", request_id="r1", status=200)
    (line,) = map(json.loads, lines())
    assert datetime.fromisoformat(line.pop("ts")).utcoffset() is not None
    assert line == {
        "level": "info",
        "process": "engine",
        "pid": os.getpid(),
        "logger": "vgate.test",
        "event": "request finished",
        "request_id": "r1",
        "status": 200,
    }


def test_json_takes_any_value(written):
    lines = written()
    Log("vgate.test").warning("odd", error=ValueError("no"), path=b"\xff", many={1, 2})
    (line,) = map(json.loads, lines())
    assert line["error"] == "no"


def test_json_keeps_one_line_for_text_with_line_breaks(written):
    lines = written()
    Log("vgate.test").info("x", text="a\nb\r\nc\u2028d")
    assert len(lines()) == 1


@pytest.mark.parametrize("json_format", [True, False])
def test_an_exception_comes_with_its_traceback(written, json_format):
    lines = written(json_format=json_format)
    try:
        message = "the cause"
        raise KeyError(message)
    except KeyError:
        Log("vgate.test").exception("it failed", request_id="r1")
    text = "\n".join(lines())
    assert "Traceback" in text
    assert "the cause" in text
    assert "it failed" in lines()[0]


@pytest.mark.parametrize("json_format", [True, False])
def test_percent_signs_are_text(written, json_format):
    lines = written(json_format=json_format)
    Log("vgate.test").info("100% %s done", share="50%")
    assert "100% %s done" in lines()[0]
    assert "50%" in lines()[0]


def test_plain_has_level_process_event_and_fields(written):
    lines = written(json_format=False)
    Log("vgate.test").error("went wrong", status=500)
    (line,) = lines()
    date, time, *rest = line.split()
    assert datetime.fromisoformat(f"{date} {time}").tzinfo is None
    assert rest == ["ERROR", "engine", "went", "wrong", "status=500"]


def test_plain_keeps_one_line_for_fields_with_line_breaks(written):
    # Otherwise a value that a client chose could forge a line of its own.
    lines = written(json_format=False)
    Log("vgate.test").info("request finished", model="a\n12:00:00.000 ERROR engine  forged")
    assert len(lines()) == 1


FORGERIES = [
    "a status=500",
    'a" status="500',
    "a\\",
    'a\\" status=500',
    "\x1b[2J\x1b[31m",
    "\x9b2J",
    "a\r\n12:00:00.000 INFO    engine  forged",
    "a\u2028b\u202eb\x85c\x0bd\x1ce",
    "",
    "=",
    '"',
    "\t",
    "\ud800",
]
# As a reader of such lines takes them apart.
FIELD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^ "=]*)')


@pytest.mark.parametrize("value", FORGERIES)
def test_a_value_is_one_field_in_one_line(written, value):
    lines = written(json_format=False)
    Log("vgate.test").info("request finished", request_id=value, model=value, status=200)
    (line,) = lines()
    assert line.isprintable()
    _, _, fields = line.partition("request finished")
    assert "".join(match.group() for match in FIELD.finditer(fields)) == fields
    assert [name for name, _ in FIELD.findall(fields)] == ["request_id", "model", "status"]


@pytest.mark.parametrize("value", FORGERIES[:-1])
def test_json_keeps_a_value_and_controls_no_terminal(written, value):
    lines = written()
    Log("vgate.test").info("request finished", model=value)
    (line,) = lines()
    assert line.isprintable()
    assert json.loads(line)["model"] == value


def test_usual_values_have_no_quotes(written):
    lines = written(json_format=False)
    Log("vgate.test").info("x", path="/v1/a_b", ratio=0.5, model="org/Model-1.5B", path_="C:\\a")
    assert lines()[0].endswith("x path=/v1/a_b ratio=0.5 model=org/Model-1.5B path_=C:\\a")


def test_an_exceptions_message_forges_no_line(written):
    lines = written(json_format=False)
    try:
        message = "no\n12:00:00.000 ERROR   engine  forged\x1b[2J"
        raise ValueError(message)
    except ValueError:
        Log("vgate.test").exception("it failed")
    assert all(line.startswith("  ") and line.isprintable() for line in lines()[1:])


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_level_hides_what_is_below_it(written, level):
    lines = written(level)
    log = Log("vgate.test")
    methods = ["debug", "info", "warning", "error"]
    for method in methods:
        getattr(log, method)(method)
    shown = [json.loads(line)["event"] for line in lines()]
    assert shown == methods[methods.index(level) :]


def test_lines_of_libraries_have_the_same_format(written):
    lines = written()
    logging.getLogger("other").warning("%d of %d", 1, 2)
    (line,) = map(json.loads, lines())
    assert (line["event"], line["logger"]) == ("1 of 2", "other")


def test_a_field_does_not_replace_a_fixed_one(written):
    lines = written()
    Log("vgate.test").info("process started", pid=1, process="x", level="y", ts="z")
    (line,) = map(json.loads, lines())
    assert (line["pid"], line["process"], line["level"]) == (os.getpid(), "engine", "info")


def test_configuring_twice_does_not_double_lines(written, root):
    lines = written()
    logs.configure("engine", level="info", json_format=True)
    Log("vgate.test").info("once")
    assert len(lines()) == 1
    assert len(root.handlers) == 1


@pytest.mark.parametrize("level", ["info", "error"])
def test_fields_of_a_dictionary_are_fields(written, level):
    lines, fields = written(), {"status": 200, "level": "none", "pid": 0, "source": "ours"}
    Log("vgate.test").event("request finished", fields)
    getattr(Log("vgate.test"), level)("request finished", **fields)
    first, second = map(json.loads, lines())
    assert {**first, "ts": "", "level": ""} == {**second, "ts": "", "level": ""}
    assert (first["level"], second["level"], first["pid"]) == ("info", level, os.getpid())
    assert (first["status"], first["source"]) == (200, "ours")
    assert fields["level"] == "none"


@pytest.mark.parametrize("formatter", [JSONFormatter, PlainFormatter])
def test_a_record_without_fields_is_formatted(formatter):
    record = logging.LogRecord("n", logging.INFO, "f", 1, "text", None, None)
    assert "text" in formatter("engine").format(record)


def test_a_record_has_what_other_handlers_ask_for(root):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    root.handlers[:] = [handler]
    try:
        raise OSError("x")
    except OSError:
        Log("vgate.test").exception("text", number=1)
    (record,) = records
    usual = logging.LogRecord("vgate.test", logging.ERROR, "", 0, "text", (), record.exc_info)
    usual.__dict__ |= {"created": record.created, "msecs": record.msecs, "vgate_fields": {}}
    assert vars(record).keys() == vars(usual).keys()
    form = "%(asctime)s %(levelname)s %(levelno)s %(name)s %(filename)s:%(lineno)d %(message)s"
    formatter = logging.Formatter(form)
    assert formatter.format(record) == formatter.format(usual)
    assert "OSError: x" in formatter.format(record)


def test_lines_of_one_turn_of_a_loop_are_written_together(written):
    lines = written("info", json_format=False)
    log = Log("vgate.test")

    async def scenario():
        logs.gather_lines(asyncio.get_running_loop())
        log.info("first")
        log.info("second")
        assert lines() == [""]
        await asyncio.sleep(0)
        assert [line.split()[-1] for line in lines()] == ["first", "second"]

    asyncio.run(scenario())


def test_errors_and_lines_of_other_threads_do_not_wait(written):
    lines = written("info", json_format=False)
    log = Log("vgate.test")

    async def scenario():
        logs.gather_lines(asyncio.get_running_loop())
        log.info("waits")
        log.error("fails")
        assert [line.split()[-1] for line in lines()] == ["waits", "fails"]
        other = threading.Thread(target=log.info, args=("elsewhere",))
        other.start()
        other.join()
        assert lines()[-1].endswith("elsewhere")

    asyncio.run(scenario())


def test_waiting_lines_are_written_at_the_end(written):
    lines = written("info", json_format=False)

    async def scenario():
        logs.gather_lines(asyncio.get_running_loop())
        asyncio.get_running_loop().call_soon(Log("vgate.test").info, "last")

    asyncio.run(scenario())
    logging.shutdown()
    assert lines()[-1].endswith("last")


def test_other_handlers_get_the_events_too(written, root):
    written()
    received = []
    other = logging.Handler()
    other.emit = lambda record: received.append((record.getMessage(), record.vgate_fields))
    root.addHandler(other)
    Log("vgate.test").info("event", status=200)
    assert received == [("event", {"status": 200})]


@pytest.fixture
def small_pipe(root, monkeypatch):
    """Return a function that configures logging to a small pipe; it returns the end for reading."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)

    def configure() -> int:
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure("engine", level="info", json_format=True)
        return reading

    with os.fdopen(writing, "w") as stream:
        yield configure
        assert os.get_blocking(writing)  # other processes may share it
    os.close(reading)


def test_a_full_pipe_drops_lines_and_tells_it_once(small_pipe):
    reading = small_pipe()
    log = Log("vgate.test")
    for number in range(5000):
        log.info("event", number=number, text="x" * 100)
    os.set_blocking(reading, False)
    found = b""
    for last in ("a", "b", "c"):
        log.info("event", number=last)
        # As often as is needed to read what was kept.
        for _ in range(1000):
            try:
                found += os.read(reading, 65536)
            except BlockingIOError:
                break
            logging.root.handlers[0]._stream.flush()
    lines = [json.loads(line) for line in found.splitlines()]
    told = [line for line in lines if line["event"] == "log lines were dropped"]
    numbers = [line["number"] for line in lines if line["event"] == "event"]
    assert len(told) == 1
    count = told[0]["count"]
    if "a" not in numbers:
        count -= 1
    kept = [number for number in numbers if isinstance(number, int)]
    assert kept == list(range(5000 - count))
    assert numbers[-2:] == ["b", "c"]


def test_the_end_of_a_process_with_a_full_pipe_is_bounded(small_pipe):
    small_pipe()
    Log("vgate.test").info("event", text="x" * 100_000)
    ending = threading.Thread(target=logging.root.handlers[0].close)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()


class TestLibraries:
    """What vLLM, torch and others say is marked, and lowered where it is about themselves."""

    @pytest.fixture
    def lines(self, root, monkeypatch):
        def configure(level="info", *, attended=False, json_format=False):
            stream = io.StringIO()
            monkeypatch.setattr(sys, "stderr", stream)
            logs.configure("engine", level=level, json_format=json_format, attended=attended)
            return lambda: stream.getvalue().splitlines()

        yield configure
        logging.getLogger("vllm").handlers.clear()

    def say(self):
        logger = logging.getLogger("vllm.config")
        logger.debug("details")
        logger.info("chatter")
        logger.warning("Triton is not installed. triton-cpu is expected on x86 CPUs.")
        logger.warning("the disk is slow")
        logger.error("it failed")
        logging.getLogger("py.warnings").warning("x.py:1: FutureWarning: it will be gone")

    @pytest.mark.parametrize(
        ("level", "attended", "expected"),
        [
            ("info", False, ["WARNING the disk is slow", "ERROR it failed"]),
            ("error", False, ["ERROR it failed"]),
            ("info", True, ["INFO chatter", "WARNING the disk is slow", "ERROR it failed"]),
        ],
    )
    def test_their_levels(self, lines, level, attended, expected):
        written = lines(level, attended=attended)
        adopt(["vllm"], ("Triton is not installed",))
        self.say()
        shown = [line.split(None, 4) for line in written()]
        assert [f"{level} {text}" for _, _, level, _, text in shown] == expected
        assert {process for *_, process, _ in shown} == {"engine:vllm"}

    def test_all_of_it_is_at_debug(self, lines):
        written = lines("debug")
        adopt(["vllm"], ("Triton is not installed",))
        self.say()
        assert len([line for line in written() if " DEBUG " in line]) == 4

    def test_json_names_the_library(self, lines):
        written = lines(json_format=True)
        self.say()
        found = [json.loads(line) for line in written()]
        assert [line["source"] for line in found] == ["vllm"] * 3
        Log("vgate.x").info("ours")
        assert "source" not in json.loads(written()[-1])

    def test_handlers_of_their_own_are_taken_off(self, lines):
        own = io.StringIO()
        logger = logging.getLogger("vllm")
        logger.addHandler(logging.StreamHandler(own))
        logger.propagate = False
        written = lines()
        adopt(["vllm"], ())
        logger.error("it failed")
        assert own.getvalue() == ""
        assert "it failed" in written()[-1]
