"""A conversation: what is sent, kept and shown, also when an answer is stopped or fails."""

import io
import json
from contextlib import redirect_stdout

import pytest

from vgate.commands.chat import _read
from vgate.commands.command import CommandError
from vgate.commands.conversation import Conversation


def delta(finish_reason=None, **fields):
    return {"choices": [{"delta": fields, "finish_reason": finish_reason}]}


class Server:
    """Streams what a test sets; an exception among it is raised."""

    def __init__(self):
        self.events = [delta(content="an "), delta(content="answer", finish_reason="stop")]
        self.sent = []

    def stream(self, path, body, headers):
        self.sent.append((json.loads(json.dumps(body)), dict(headers)))
        for event in self.events:
            if isinstance(event, BaseException):
                raise event
            yield event


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def conversation(server):
    return Conversation(server, "qwen", {"temperature": 0.5})


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen()


def test_what_was_said_is_sent_again(server, conversation):
    conversation.system = "be brief"
    conversation.ask("one")
    conversation.ask("two")
    body, headers = server.sent[-1]
    assert [message["content"] for message in body["messages"]] == [
        "be brief", "one", "an answer", "two",
    ]  # fmt: skip
    assert (body["model"], body["temperature"], body["stream"]) == ("qwen", 0.5, True)
    assert headers == {}
    conversation.clear()
    conversation.ask("three")
    assert [m["role"] for m in server.sent[-1][0]["messages"]] == ["system", "user"]


def test_another_answer_is_not_that_of_the_cache(server, conversation):
    with pytest.raises(CommandError, match="nothing to retry"):
        conversation.retry()
    conversation.ask("one")
    server.events = [delta(content="another")]
    conversation.retry()
    assert server.sent[-1][1] == {"Cache-Control": "no-cache"}
    assert [message["content"] for message in conversation.messages] == ["one", "another"]


def test_in_a_pipe_there_is_the_answer_alone(server, conversation, capsys):
    server.events = [delta(reasoning_content="hmm"), delta(content="4\x1b[1m")]
    conversation.ask("2 + 2?")
    assert capsys.readouterr().out == "4\x1b[1m\n"


def test_on_a_terminal_reasoning_is_dim_and_costs_are_told(server, conversation, screen):
    usage = {"choices": [], "usage": {"completion_tokens": 1200, "prompt_tokens": 7}}
    events = [delta(reasoning_content="hmm\n"), delta(content="4\x1b[2J", finish_reason="length")]
    server.events = [*events, usage]
    with redirect_stdout(screen):
        conversation.ask("2 + 2?")
    shown = screen.getvalue()
    assert "\x1b[2mhmm\n\x1b[0m" in shown
    assert "\n\n4\N{REPLACEMENT CHARACTER}[2J\n" in shown
    assert "1,200 tokens, " in shown
    assert "prompt 7, cut off: the context or --max-tokens is full)" in shown
    assert conversation.messages[-1]["content"] == "4\x1b[2J"


def test_what_came_before_it_was_stopped_was_said(server, conversation, screen):
    server.events = [delta(content="an "), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt), redirect_stdout(screen):
        conversation.ask("one")
    assert conversation.messages[-1] == {"role": "assistant", "content": "an "}
    assert "stopped)" in screen.getvalue()


def test_without_an_answer_nothing_was_said(server, conversation, capsys):
    conversation.ask("one")
    server.events = [delta(content="an "), CommandError("the connection broke")]
    with pytest.raises(CommandError, match="broke"):
        conversation.ask("two")
    assert len(conversation.messages) == 2
    assert capsys.readouterr().out == "an answer\nan \n"


def test_it_is_saved_as_json_or_markdown_and_never_over_a_file(conversation, tmp_path):
    conversation.system = "be brief"
    conversation.ask("one")
    conversation.save(tmp_path / "said.json")
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["model"] == "qwen"
    assert [message["role"] for message in said["messages"]] == ["system", "user", "assistant"]
    conversation.save(tmp_path / "said.md")
    assert "**user**\n\none\n\n**assistant**\n\nan answer\n" in (tmp_path / "said.md").read_text()
    with pytest.raises(CommandError, match=r"said\.md exists already: give another name"):
        conversation.save(tmp_path / "said.md")
    with pytest.raises(CommandError, match=r"cannot write .*: No such file"):
        conversation.save(tmp_path / "no" / "said.md")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""one', "", 'two"""'], "one\n\ntwo"),
        (['"""', "one", '"""'], "one"),
        (['"""one"""'], "one"),
    ],
)
def test_messages_of_several_lines(monkeypatch, lines, message):
    left = iter(lines)
    monkeypatch.setattr("builtins.input", lambda _prompt: next(left))
    assert _read() == message
    assert next(left, None) is None
