"""What chaos takes for a right answer, and what for an excuse."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from bench.chaos import __main__ as program
from bench.chaos import preparation, readers
from bench.chaos.__main__ import Outcome, Plan, in_turn, main, possible, table
from bench.chaos.answers import ServerError, WrongError, said
from bench.chaos.clients import Clients, Tally
from bench.chaos.deck import Ask, deck
from bench.chaos.faults import KINDS
from bench.chaos.instance import Instance
from bench.chaos.victim import Fault, Victim
from bench.load.target import Target

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
DONE = b"data: [DONE]\n\n"


def event(**data) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(text="", index=0, finish_reason=None) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return event(choices=[choice])


GOOD = [chunk("a"), b": keep-alive\n\n", chunk("b", 1), chunk("c"), chunk("", 0, "stop")]
GOOD += [chunk("", 1, "length"), event(choices=[], usage={"completion_tokens": 3}), DONE]


class TestSaid:
    def test_the_division_into_events_is_left_out(self):
        found = said(CHAT, b"".join(GOOD), stream=True)
        assert [c["text"] for c in found["choices"].values()] == ["ac", "b"]
        assert [c["finish_reason"] for c in found["choices"].values()] == ["stop", "length"]
        assert found["tokens"] == 3
        merged = [chunk("ac"), *GOOD[2:3], *GOOD[4:]]
        assert said(CHAT, b"".join(merged), stream=True) == found

    @pytest.mark.parametrize("number", [0, 2, 3])
    def test_a_doubled_or_missing_event_is_another_answer(self, number):
        right = said(CHAT, b"".join(GOOD), stream=True)
        doubled = [*GOOD[: number + 1], *GOOD[number:]]
        missing = GOOD[:number] + GOOD[number + 1 :]
        for parts in (doubled, missing):
            assert said(CHAT, b"".join(parts), stream=True) != right

    @pytest.mark.parametrize(
        "parts",
        [GOOD[:-1], [*GOOD, DONE], [*GOOD, chunk("late")], [*GOOD[:5], *GOOD[4:]], [b"data: {\n"]],
        ids=["no end", "two ends", "after the end", "ended twice", "broken"],
    )
    def test_what_is_no_complete_stream(self, parts):
        with pytest.raises(WrongError):
            said(CHAT, b"".join(parts), stream=True)

    @pytest.mark.parametrize(
        ("path", "body", "stream"),
        [
            (CHAT, chunk("a") + event(error={"code": "x", "message": "m"}), True),
            (CHAT, b'{"error": {"code": "x", "message": "m"}}', True),
            (MESSAGES, b'{"type": "error", "error": {"type": "x", "message": "m"}}', False),
            (RESPONSES, event(type="response.failed", response={"error": {"code": "x"}}), True),
        ],
    )
    def test_errors_are_told_from_answers(self, path, body, stream):
        with pytest.raises(ServerError) as caught:
            said(path, body, stream=stream)
        assert caught.value.code == "x"

    def test_a_response_must_say_what_was_streamed(self):
        part = {"text": "ab"}
        whole = {"output": [{"type": "message", "content": [part]}], "usage": {"output_tokens": 2}}
        deltas = [event(type="response.output_text.delta", delta=one) for one in "ab"]
        last = event(type="response.completed", response=whole)
        right = said(RESPONSES, b"".join([*deltas, last]), stream=True)
        assert right == said(RESPONSES, json.dumps(whole).encode(), stream=False)
        with pytest.raises(WrongError):
            said(RESPONSES, b"".join([*deltas, deltas[1], last]), stream=True)

    def test_a_message(self):
        deltas = [event(type="content_block_delta", delta={"text": one}) for one in "ab"]
        end = [
            event(
                type="message_delta",
                delta={"stop_reason": "end_turn"},
                usage={"output_tokens": 2},
            ),
            event(type="message_stop"),
        ]
        whole = {
            "content": [{"text": "ab"}],
            "stop_reason": "end_turn",
            "usage": {"output_tokens": 2},
        }
        streamed = said(MESSAGES, b"".join([*deltas, *end]), stream=True)
        assert streamed == said(MESSAGES, json.dumps(whole).encode(), stream=False)


def outcome_of(what, faults=(), own_deaths=(), kind="failed"):
    """Return how a request from 10 to 12 that ended in an error is counted."""
    target = Target("127.0.0.1", 1, False, "", ("127.0.0.1",))
    instance = SimpleNamespace(target=target, own_deaths=list(own_deaths))
    clients = Clients(instance, [Fault(k, b, e, d) for k, b, e, d in faults])
    return clients._excuse(kind, what, clients._deaths("engine", 10, 12), 10, 12)


KILL, LATER = ("engine_kill", 9.0, 10.5, "engine"), ("engine_kill", 11.0, 0.0, "engine")
UNAVAILABLE = "engine_unavailable: the engine stopped, as another one did before"


class TestExcuses:
    def test_two_deaths_excuse_an_error_and_one_does_not(self):
        assert outcome_of(UNAVAILABLE, [KILL]) is None
        assert outcome_of(UNAVAILABLE, [KILL, LATER]) == "two engines died within it"
        assert outcome_of(UNAVAILABLE, [KILL], [11.0]) == "two engines died within it"
        for other in ("internal_error: boom", "engine_unavailable: there is none"):
            assert outcome_of(other, [KILL, LATER]) is None

    def test_only_deaths_within_the_request_count(self):
        before = ("engine_kill", 1.0, 9.9, "engine")
        pause = ("engine_pause", 10.0, 11.0, "")
        assert outcome_of(UNAVAILABLE, [KILL, before, pause], [3.0, 14.0]) is None

    def test_a_broken_connection_needs_a_dead_frontend(self):
        frontend = ("frontend_kill", 9.0, 10.5, "frontend")
        assert outcome_of("cut", [KILL, LATER], kind="broken") is None
        assert outcome_of("cut", [frontend], kind="broken") == "its frontend died"
        assert outcome_of(UNAVAILABLE, [frontend]) is None
        assert outcome_of(UNAVAILABLE, [frontend, KILL]) is not None

    def test_nothing_excuses_a_wrong_answer(self):
        frontend = ("frontend_kill", 9.0, 10.5, "frontend")
        for kind in ("wrong", "hung"):
            assert outcome_of("x", [KILL, LATER, frontend], kind=kind) is None


class TestRun:
    def test_a_deck_is_repeated_by_its_seed_and_has_every_kind(self):
        asks = deck(7, 60, simulated=True)
        assert asks == deck(7, 60, simulated=True) != deck(8, 60, simulated=True)
        kinds = {ask.kind for ask in asks}
        assert kinds - {ask.kind for ask in deck(7, 60, simulated=False)} == {
            "sampled without a seed"
        }
        assert len({json.dumps(ask.body) for ask in asks}) == 60

    def test_every_fault_has_its_turn(self):
        import random

        turns = in_turn(list(KINDS), random.Random(1))
        for _ in range(3):
            assert {next(turns) for _ in KINDS} == set(KINDS)

    def test_what_is_unexplained_fails_the_run_and_is_shown(self):
        tally = Tally()
        tally.spanned[1] = 5
        outcome = Outcome(Plan(), 1.0, [], tally)
        assert outcome.passed
        clients = SimpleNamespace(tally=tally, _deaths=lambda *_: 0, _excuse=lambda *_: None)
        Clients._count(clients, Ask("greedy", CHAT, {}), "wrong", "'aa' instead of 'a'", 0.0)
        assert not outcome.passed
        assert "UNEXPLAINED wrong" in table(outcome)
        assert "'aa' instead of 'a'" in table(outcome)

    def test_a_run_without_a_death_in_an_answer_proves_nothing(self):
        assert not Outcome(Plan(), 1.0, [], Tally()).passed
        kill, tally = Fault("engine_kill", 1.0, 2.0, "engine"), Tally()
        tally.spanned[0] = 5
        assert Outcome(Plan(), 1.0, [], tally).passed
        assert not Outcome(Plan(), 1.0, [kill], tally).passed

    def test_what_this_machine_does_not_allow_is_left_out_in_words(self, capsys, monkeypatch):
        def fails(path):
            raise OSError("mount: only root can do that")

        monkeypatch.setattr(preparation, "mount", fails)
        monkeypatch.setattr(preparation, "_faketime", lambda: None)
        assert possible(["engine_kill", "full_disk"]) == ("engine_kill",)
        assert "full_disk is left out: this user can't mount a tmpfs: mount: only root" in (
            capsys.readouterr().err
        )
        assert main(["--faults", "clock_jump"]) == 2
        assert "pip install libfaketime" in capsys.readouterr().err

    def test_an_unknown_fault_is_named(self, capsys):
        assert main(["--faults", "flood"]) == 2
        assert "flood" in capsys.readouterr().err


class Endless(Clients):
    """Clients that see one right answer each, and then none."""

    async def learn(self, asks):
        return [(ask, {}) for ask in asks]

    async def run(self, learned, go_on):
        self._count(learned[0][0], "right", "", 0.0)
        await asyncio.Event().wait()


class TestCtrlC:
    """It ends a run quietly, and leaves nothing behind."""

    @pytest.fixture(autouse=True)
    def instance(self, monkeypatch):
        target = Target("127.0.0.1", 1, False, "", ("127.0.0.1",))
        instance = SimpleNamespace(target=target, own_deaths=[], alive=True)
        monkeypatch.setattr(program, "start", lambda *_: nullcontext(instance))
        monkeypatch.setattr(program, "Clients", Endless)

    def interrupt(self, *_):
        os.kill(os.getpid(), signal.SIGINT)
        return asyncio.Event().wait()

    def test_a_run_says_what_it_did_so_far(self, capsys, monkeypatch, tmp_path):
        faults = iter([lambda: asyncio.sleep(0), self.interrupt])

        async def inflict(kind, victim, fault):
            await next(faults)()
            fault.ended = fault.began

        monkeypatch.setattr(program, "inflict", inflict)
        written = tmp_path / "outcome.json"
        arguments = ["--faults", "engine_kill", "--pause", "0.001", "--clients", "3"]
        assert main([*arguments, "--json", str(written)]) == 1
        shown = capsys.readouterr().out
        assert shown.endswith("PROBLEM stopped by Ctrl-C\n")
        rows = [line.split() for line in shown.splitlines()]
        assert ["fault:", "engine_kill", "2"] in rows
        assert ["answers:", "right", "3"] in rows
        first, second = json.loads(written.read_bytes())["faults"]
        assert (first["ended"] > 0, second["ended"]) == (True, 0.0)

    def test_before_the_first_fault(self, capsys, monkeypatch):
        monkeypatch.setattr(Endless, "learn", self.interrupt)
        assert main(["--faults", "engine_kill"]) == 1
        assert "PROBLEM stopped by Ctrl-C before the first fault" in capsys.readouterr().out

    def test_while_the_server_starts(self, capsys, monkeypatch):
        def start(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(program, "start", start)
        assert main(["--faults", "engine_kill"]) == 1
        assert "stopped by Ctrl-C while the server started" in capsys.readouterr().err

    def test_a_server_that_was_to_start_is_ended(self, tmp_path):
        class Starting(Instance):
            command = (sys.executable, "-c", "import time; time.sleep(3600)")

            def has_logged(self, text):
                raise KeyboardInterrupt

        instance = Starting(tmp_path, {}, None)
        with pytest.raises(KeyboardInterrupt):
            instance.__enter__()
        assert not instance.alive

    def test_a_process_that_was_paused_goes_on(self, monkeypatch):
        sent, stopped = [], asyncio.Event()

        def kill(pid, sig):
            sent.append((pid, sig))
            stopped.set()

        async def pause():
            victim = Victim(SimpleNamespace(pids=lambda _role: [7]), random.Random(1))
            pausing = asyncio.ensure_future(KINDS["engine_pause"](victim, Fault("", 0.0)))
            await stopped.wait()
            pausing.cancel()
            await asyncio.wait([pausing])

        monkeypatch.setattr(os, "kill", kill)
        asyncio.run(pause())
        assert sent == [(7, signal.SIGSTOP), (7, signal.SIGCONT)]


def test_the_end_of_a_lost_link_is_seen_by_the_port_of_its_other_side():
    with socket.create_server(("127.0.0.1", 0)) as server:
        local = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", local)) as client:
            remote = client.getsockname()[1]
            accepted, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, readers.SO_ATTACH_FILTER, readers.FILTER)
            accepted.send(b"lost")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(4)
            assert readers.is_open(local, remote)
            accepted.close()
            assert not readers.is_open(local, remote)


def test_a_process_that_dies_as_it_is_chosen_is_the_victim_all_the_same():
    pids = iter([[], [7], []])
    victim = Victim(SimpleNamespace(pids=lambda _role: next(pids)), random.Random(1))
    assert asyncio.run(victim.process("engine")) == 7
