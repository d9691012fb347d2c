"""`vgate top`: what it shows, which request is chosen, and how one is stopped."""

import pytest

from tests.commands.test_overview import READY, STATS
from vgate.commands.command import CommandError
from vgate.commands.server import ApiError
from vgate.commands.top import _DOWN, _UP, _Top


def running(name, age_s, tokens, **fields):
    return {
        "id": name, "key": "alice", "model": "org/qwen", "state": "running", "age_s": age_s,
        "prompt_tokens": 1200, "cached_tokens": None, "completion_tokens": tokens,
        "ttft_s": 0.041, **fields,
    }  # fmt: skip


class Server:
    """Answers with what a test puts there."""

    url = "http://box:8000"

    def __init__(self, *requests):
        self.requests = list(requests)
        self.posted = []
        self.error = None

    def get(self, path, also=()):
        if self.error:
            raise self.error
        return {"/ready": READY, "/stats": STATS}.get(path) or {"data": self.requests}

    def objects(self, path):
        return self.get(path)["data"]

    def post(self, path, body):
        self.posted.append(path)
        if self.error:
            raise self.error


@pytest.fixture
def server():
    return Server(running("young", 2.0, 10), running("old/1", 70.0, 400))


@pytest.fixture
def top(server):
    made = _Top(server)
    made.look()
    return made


def rows(top):
    lines = top.lines()
    start = next(number for number, line in enumerate(lines) if line.startswith("REQUEST"))
    return [line.split() for line in lines[start + 1 : lines.index("", start)]]


def test_the_oldest_comes_first_with_its_speed_since_the_last_look(server, top):
    first = "old/1 alice org/qwen running 1 min 10 s 41 ms 1,200 0 400 -"
    assert " ".join(rows(top)[0]) == first
    server.requests = [running("young", 4.0, 110), running("new", 0.1, 0, ttft_s=None)]
    top.look()
    assert [row[0] for row in rows(top)] == ["young", "new"]
    assert [row[-1] for row in rows(top)] == ["50", "-"]


def test_a_request_is_stopped_after_a_question(server, top):
    top.press(_DOWN)
    top.press(_DOWN)
    top.press("k")
    assert top.lines()[-1] == "stop young? y stops it, any other key does not"
    top.press("n")
    assert server.posted == []
    top.press(_UP)
    top.press("k")
    top.press("y")
    assert server.posted == ["/admin/requests/old%2F1/cancel"]
    assert top.lines()[-1] == "old/1 is stopped"
    top.press("k")
    server.error = ApiError("no request with the id `old/1` is running", 404)
    top.press("y")
    assert top.lines()[-1] == "no request with the id `old/1` is running"


def test_without_requests_there_is_nothing_to_stop():
    top = _Top(Server())
    top.look()
    assert "no request is running" in top.lines()
    top.press("k")
    assert not top.asks


def test_the_chosen_one_stays_chosen_and_in_sight(server, top):
    server.requests = [running(f"r{number:02}", 100.0 - number, 1) for number in range(50)]
    top.look()
    for _ in range(30):
        top.press(_DOWN)
    server.requests = server.requests[10:]
    top.look()
    lines = top.lines(100, 30)
    assert len(lines) <= 30
    assert any(line.startswith("r30") for line in lines)
    top.press("k")
    assert "stop r30?" in top.lines()[-1]


def test_the_limits_of_many_keys_leave_room(monkeypatch, server, top):
    limits = [{**STATS["limits"][0], "key": f"key {number}"} for number in range(100)]
    monkeypatch.setitem(STATS, "limits", limits)
    top.look()
    top.press("k")
    lines = top.lines(100, 24)
    assert len(lines) < 24
    assert lines[-1].startswith("stop old/1?")
    assert any(line.startswith("young") for line in lines)


def test_names_of_others_do_not_reach_the_terminal_as_commands(server, top):
    server.requests = [running("\x1b[2J", 1.0, 1, key="\x07bob")]
    top.look()
    assert "\x1b" not in "".join(top.lines())
    assert "\x07" not in "".join(top.lines())


def test_a_server_that_is_lost_later_is_told_below(server, top):
    server.error = CommandError("no server answers", 3)
    top.look()
    assert top.lines()[-1] == "no server answers"
    with pytest.raises(CommandError):
        _Top(server).look()
