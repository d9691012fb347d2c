"""How bin/test runs several lanes at once, and how it ends them."""

import io
import os
import signal
import subprocess
import sys
import textwrap
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from tests.e2e.instance import ROOT, wait_until
from tests.lanes import FAILED, PASSED, SKIPPED, Row, run_lanes

# A lane: its name is what it does.
LANE = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    from tests.lanes import FAILED, PASSED, SKIPPED, Row, save

    name, directory, report = sys.argv[1], Path(sys.argv[2]), sys.argv[4]
    print(f"{name} begins", flush=True)
    (directory / f"{name}.pid").write_text(str(os.getpid()))
    if name == "waits":
        while not (directory / "other.pid").exists():
            time.sleep(0.01)
    if name == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        (directory / "server.pid").write_text(str(server.pid))
        time.sleep(1000)
    if name == "hangs":
        time.sleep(1000)
    if name == "dies":
        sys.exit(3)
    print(f"{name} ends")
    row = Row(name)
    save([row.end(FAILED, "as told") if name == "fails" else row.end(PASSED)], report)
"""


class Lanes:
    """Runs lanes in this process or in another one."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        self.directory = directory
        self.program = directory / "lane.py"
        self.program.write_text(textwrap.dedent(LANE))
        self.out = io.StringIO()

    def run(self, *names: str, at_once: int = 2) -> list[Row]:
        start = [sys.executable, str(self.program)]
        return run_lanes(
            names,
            lambda name: [*start, name, str(self.directory)],
            at_once=at_once,
            out=self.out,
        )

    def pid_of(self, name: str) -> int:
        file = self.directory / f"{name}.pid"
        return int(wait_until(lambda: file.exists() and file.read_text(), 30, f"{name} starts"))


@pytest.fixture
def lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lanes:
    return Lanes(tmp_path, monkeypatch)


def test_two_run_at_a_time_and_each_is_shown_in_one_piece(lanes: Lanes):
    rows = lanes.run("waits", "other", "third")
    assert [(row.name, row.outcome) for row in rows] == [
        ("waits", PASSED),
        ("other", PASSED),
        ("third", PASSED),
    ]
    assert lanes.out.getvalue().splitlines() == [
        *("waits begins", "waits ends", "other begins", "other ends"),
        *("third begins", "third ends"),
    ]


def test_a_lane_that_fails_or_dies_stops_no_other(lanes: Lanes):
    rows = lanes.run("fails", "dies", "third", at_once=1)
    assert [(row.outcome, row.reason) for row in rows] == [
        (FAILED, "as told"),
        (FAILED, "its process ended with 3"),
        (PASSED, ""),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_all_lanes(lanes: Lanes, number: signal.Signals):
    """As in bin/test, where SIGTERM is an exception too."""
    program = f"""
        import signal, sys
        from tests.lanes import run_lanes
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        start = [sys.executable, {str(lanes.program)!r}]
        run_lanes(["hangs", "waits"], lambda n: [*start, n, {str(lanes.directory)!r}], at_once=2)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        started = [lanes.pid_of("hangs"), lanes.pid_of("waits")]
        process.send_signal(number)
        assert process.wait(60) != 0
    for lane in started:
        with pytest.raises(ProcessLookupError):
            os.kill(lane, 0)


def test_a_lane_that_does_not_end_is_killed_with_what_it_started(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
):
    def write(text: str) -> int:
        if (lanes.directory / "server.pid").exists():
            raise KeyboardInterrupt
        return len(text)

    monkeypatch.setattr("tests.lanes.INTERRUPTED_S", 0.2)
    monkeypatch.setattr(lanes.out, "write", write)
    with pytest.raises(KeyboardInterrupt):
        lanes.run("stubborn")
    left = {process.pid: process.status() for process in psutil.process_iter()}
    assert left.get(lanes.pid_of("server"), psutil.STATUS_ZOMBIE) == psutil.STATUS_ZOMBIE


def run_bin_test(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bin/test", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_contradicting_options_are_refused():
    done = run_bin_test("--light", "--require-vllm")
    assert done.returncode == 2
    assert "--light leaves out what --require-vllm requires" in done.stderr


def test_a_row_says_what_happened():
    assert str(Row("light 3.11").end(SKIPPED, "no such Python")).endswith("s  no such Python")


@pytest.fixture
def bin_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bin/test as a module, for tests in a directory of their own."""
    loader = SourceFileLoader("bin_test", str(ROOT / "bin" / "test"))
    module = module_from_spec(spec_from_loader("bin_test", loader))
    loader.exec_module(module)
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(module, "CLONE", str(tmp_path))
    return module


FAILS_ONCE = """
    from pathlib import Path

    def test_it():
        ran = Path(__file__).with_suffix(".ran")
        before = ran.exists()
        ran.touch()
        assert before

    def test_what_is_right():
        pass
"""
FAILS = """
    import pytest

    @pytest.mark.parametrize("number", range({number}))
    def test_it(number):
        with open(__file__ + ".ran", "a") as ran:
            ran.write("x")
        assert False
"""


def test_what_failed_runs_once_more_and_is_named(bin_test: ModuleType, tmp_path: Path):
    (tmp_path / "tests" / "test_one.py").write_text(textwrap.dedent(FAILS_ONCE))
    this = SimpleNamespace(python=sys.executable)
    row = bin_test.run_pytest(Row("light 3.11"), this, "not vllm")
    assert row.outcome == PASSED
    assert row.reason == "passed only the second time: tests/test_one.py::test_it"
    assert bin_test.run_pytest(Row("light 3.11"), this, "not vllm").reason == ""


@pytest.mark.parametrize(("number", "runs"), [(3, 6), (4, 4)])
def test_what_fails_twice_or_in_numbers_fails_the_lane(
    bin_test: ModuleType, tmp_path: Path, number: int, runs: int
):
    (tmp_path / "tests" / "test_one.py").write_text(textwrap.dedent(FAILS.format(number=number)))
    row = bin_test.run_pytest(Row("light"), SimpleNamespace(python=sys.executable), "not vllm")
    assert (row.outcome, row.reason) == (FAILED, "pytest ended with 1")
    assert len((tmp_path / "tests" / "test_one.py.ran").read_text()) == runs


def test_the_arguments_of_a_user_run_once(bin_test: ModuleType, tmp_path: Path):
    (tmp_path / "tests" / "test_one.py").write_text(textwrap.dedent(FAILS_ONCE))
    this = SimpleNamespace(python=sys.executable)
    assert bin_test.run_pytest(Row("light"), this, "not vllm", "-x").outcome == FAILED
