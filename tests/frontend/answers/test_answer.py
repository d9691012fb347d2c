"""Whole and streamed answers, fed by hand: the same text, counts and ends, however steps fall."""

import asyncio
import json
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.errors import EngineUnavailableError, InternalError
from vgate.frontend.answers import KEEP_ALIVE_COMMENT
from vgate.frontend.answers.answer import CollectedAnswer, StreamedAnswer
from vgate.frontend.answers.choice import Choice, DecodeOptions
from vgate.frontend.apis.openai.chat.response import ChatEncoder, ChatStream
from vgate.frontend.apis.openai.common import StreamOptions
from vgate.frontend.http.waits import ClientDisconnected
from vgate.frontend.text import Detokenizer

END = 256


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def make(loop, built_in):
    """Make an answer over the byte vocabulary."""

    def make_(kind, *, n=1, stops=(), min_tokens=0, usage=True):
        aborted, written, responses = [], [], weakref.WeakSet()

        def open_stream(_answer):
            sink = Sink(written)
            responses.add(sink)
            return sink.write

        reading = DecodeOptions(texts=built_in.token_texts, stops=stops, min_tokens=min_tokens)
        arguments = (loop, lambda s: Choice(s, [], reading), [10], n, aborted.extend)
        if kind == "whole":
            answer = CollectedAnswer(*arguments)
        else:
            answer = StreamedAnswer(
                *arguments,
                stream_encoder=ChatEncoder(
                    id="id",
                    created=1,
                    model="m",
                    stream_options=StreamOptions(include_usage=usage),
                ).stream_encoder(),
                open_stream=open_stream,
            )
        return Fed(answer, aborted, written, responses)

    return make_


class Sink:
    def __init__(self, written):
        self.written = written
        written.append(b"")  # the status and headers

    def write(self, data):
        self.written.append(data)


class Fed:
    """An answer with what came out of it; `responses` are those that something can write to."""

    def __init__(self, answer, aborted, written, responses):
        self.answer = answer
        self.aborted = aborted
        self.written = written
        self.responses = responses

    def feed(self, index, tokens, finish=None, cached=0):
        """Play the engine client: nothing comes for a sequence that was aborted or has ended."""
        sequence = self.answer.sequences[index]
        if sequence in self.aborted or sequence.finish_reason:
            return
        sequence.pending += tokens
        if cached:
            sequence.cached_tokens = cached
        sequence.finish_reason = finish

    def flush(self):
        self.answer.flush()

    def fail(self, error, index=0):
        self.answer.sequences[index].error = error
        self.answer.flush()

    @property
    def error(self):
        assert self.answer.done.done()
        return self.answer.done.exception()

    @property
    def events(self):
        data = b"".join(self.written).decode()
        assert data == "" or data.endswith("\n\n")
        return [event.removeprefix("data: ") for event in data.split("\n\n") if event]

    def outcome(self):
        """Return (texts, finish reasons, usage) of an answer that ended well."""
        answer = self.answer
        assert answer.done.result() is None
        if isinstance(answer, CollectedAnswer):
            result = answer.result()
            texts = [choice.text for choice in result.choices]
            reasons = [choice.finish_reason for choice in result.choices]
            return texts, reasons, (result.counts.prompt, result.counts.completion)
        *chunks, done = self.events
        assert done == "[DONE]"
        chunks = [json.loads(chunk) for chunk in chunks]
        assert all("error" not in chunk for chunk in chunks)
        texts = [""] * len(answer.choices)
        reasons = [None] * len(answer.choices)
        roles = [0] * len(answer.choices)
        for chunk in chunks:
            for choice in chunk["choices"]:
                index, delta = choice["index"], choice["delta"]
                roles[index] += "role" in delta
                assert reasons[index] is None, "something follows the end of a choice"
                texts[index] += delta.get("content", "")
                reasons[index] = choice["finish_reason"]
        assert roles == [1] * len(roles)
        usage = chunks[-1]["usage"]
        return texts, reasons, (usage["prompt_tokens"], usage["completion_tokens"])


def play(fed, tokens, finish, sizes):
    """Feed tokens in parts; the last comes with the finish reason."""
    sizes = iter(sizes)
    while True:
        size = next(sizes, 1)
        part, tokens = tokens[:size], tokens[size:]
        fed.feed(0, part, None if tokens else finish)
        fed.flush()
        if not tokens or fed.answer.done.done():
            return


class TestBothAgree:
    @settings(max_examples=300, deadline=None)
    @given(
        tokens=st.lists(
            st.sampled_from([*b"abcdEND", *"é😀".encode(), END]), min_size=1, max_size=30
        ),
        finish=st.sampled_from(["stop", "length"]),
        stops=st.sampled_from([(), ("END",), ("a", "bc"), ("é",), ("dE", "aaaa")]),
        min_tokens=st.integers(0, 10),
        data=st.data(),
    )
    def test_on_any_tokens_in_any_parts(self, make, tokens, finish, stops, min_tokens, data):
        outcomes = []
        for kind in ("whole", "streamed", "whole", "streamed"):
            fed = make(kind, stops=stops, min_tokens=min_tokens)
            play(fed, tokens, finish, data.draw(st.lists(st.integers(1, 30), max_size=30)))
            outcomes.append(fed.outcome())
        assert all(outcome == outcomes[0] for outcome in outcomes)
        (_, (reason,), (_, completion)) = outcomes[0]
        if not stops:
            assert (reason, completion) == (finish, len(tokens))

    @settings(max_examples=100, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(st.integers(0, 2), st.lists(st.sampled_from(b"abX"), max_size=5)),
            max_size=20,
        ),
        order=st.permutations([0, 1, 2]),
        data=st.data(),
    )
    def test_on_several_choices_in_any_order(self, make, steps, order, data):
        ends = [(index, list(b"z"), "length") for index in order]
        script = [(index, part, None) for index, part in steps] + ends
        outcomes = []
        for kind in ("whole", "streamed"):
            fed = make(kind, n=3, stops=("X",))
            for index, part, finish in script:
                fed.feed(index, part, finish)
                if data.draw(st.booleans()):
                    fed.flush()
            fed.flush()
            outcomes.append(fed.outcome())
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", ["whole", "streamed"])
class TestEnds:
    def test_a_stop_token_counts_and_is_no_text(self, make, kind):
        fed = make(kind)
        fed.feed(0, [*b"Hi", END], "stop")
        fed.flush()
        assert fed.outcome() == (["Hi"], ["stop"], (10, 3))

    def test_a_stop_token_that_is_text_elsewhere_is_no_text_either(self, make, kind):
        fed = make(kind)
        fed.feed(0, list(b"Hi!"), "stop")
        fed.flush()
        assert fed.outcome() == (["Hi"], ["stop"], (10, 3))

    def test_the_last_token_of_a_full_answer_is_text(self, make, kind):
        fed = make(kind)
        fed.feed(0, list(b"Hi!"), "length")
        fed.flush()
        assert fed.outcome() == (["Hi!"], ["length"], (10, 3))

    def test_a_stop_string_aborts_the_engine(self, make, kind):
        fed = make(kind, stops=("END",))
        fed.feed(0, list(b"text EN"))
        fed.flush()
        assert fed.aborted == []
        fed.feed(0, list(b"D and more"))
        fed.flush()
        assert fed.outcome() == (["text "], ["stop"], (10, 8))
        assert fed.aborted == fed.answer.sequences

    def test_an_end_of_its_own_aborts_nothing(self, make, kind):
        fed = make(kind, stops=("END",))
        fed.feed(0, list(b"text EN"), "length")
        fed.flush()
        assert fed.outcome()[0] == ["text EN"]
        assert fed.aborted == []

    def test_of_several_only_the_one_that_stopped_is_aborted(self, make, kind):
        fed = make(kind, n=2, stops=("X",))
        fed.feed(0, list(b"aX"))
        fed.feed(1, list(b"b"))
        fed.flush()
        assert fed.aborted == [fed.answer.sequences[0]]
        assert not fed.answer.done.done()
        fed.feed(1, list(b"c"), "length")
        fed.flush()
        assert fed.outcome() == (["a", "bc"], ["stop", "length"], (10, 4))

    def test_an_answer_without_text(self, make, kind):
        fed = make(kind)
        fed.feed(0, [END], "stop")
        fed.flush()
        assert fed.outcome() == ([""], ["stop"], (10, 1))

    def test_cached_tokens_are_reported(self, make, kind):
        fed = make(kind)
        fed.feed(0, list(b"a"), cached=8)
        fed.flush()
        fed.feed(0, list(b"b"), "length")
        fed.flush()
        assert fed.answer.counts.cached == 8

    def test_after_the_end_nothing_changes(self, make, kind):
        fed = make(kind)
        fed.feed(0, list(b"a"), "length")
        fed.flush()
        before = fed.outcome(), list(fed.written)
        fed.fail(EngineUnavailableError("late"))
        fed.answer.give_up()
        fed.flush()
        assert (fed.outcome(), list(fed.written)) == before


@pytest.mark.parametrize("kind", ["whole", "streamed"])
class TestErrors:
    def test_before_the_first_token_it_is_a_status(self, make, kind):
        fed = make(kind)
        error = EngineUnavailableError("gone")
        fed.fail(error)
        assert fed.error is error
        assert fed.written == []

    def test_it_ends_all_choices(self, make, kind):
        fed = make(kind, n=3)
        fed.feed(0, list(b"a"), "length")
        fed.flush()
        fed.fail(EngineUnavailableError("gone"), index=1)
        assert isinstance(fed.error, EngineUnavailableError)
        assert set(fed.answer.sequences[1:]) <= set(fed.aborted)

    def test_a_client_that_left(self, make, kind):
        fed = make(kind, n=2)
        fed.feed(0, list(b"a"))
        fed.flush()
        fed.answer.give_up()
        assert isinstance(fed.error, ClientDisconnected)
        assert fed.aborted == fed.answer.sequences
        before = list(fed.written)
        fed.flush()
        assert fed.written == before

    def test_a_fault_of_ours_ends_this_answer_alone(self, make, kind, monkeypatch):
        fed = make(kind)

        def fault(*_):
            message = "a bug"
            raise ZeroDivisionError(message)

        monkeypatch.setattr(Choice, "_decode", fault)
        monkeypatch.setattr(Detokenizer, "feed", fault)
        fed.feed(0, list(b"a"), "length")
        fed.flush()  # must not raise: it is called for everybody
        assert isinstance(fed.error, (ZeroDivisionError, InternalError))
        assert fed.aborted == fed.answer.sequences


class TestStream:
    def test_after_the_first_token_an_error_is_the_last_event(self, make):
        fed = make("streamed")
        fed.feed(0, list(b"a"))
        fed.flush()
        fed.fail(EngineUnavailableError("gone"))
        assert json.loads(fed.events[-1])["error"]["code"] == "engine_unavailable"
        assert "[DONE]" not in fed.events
        assert isinstance(fed.error, EngineUnavailableError)

    def test_a_closed_answer_keeps_no_response_open(self, make):
        fed = make("streamed")
        fed.feed(0, [65])
        fed.flush()
        assert len(fed.responses) == 1
        fed.fail(EngineUnavailableError("gone"))
        fed.answer.close()
        assert not fed.responses
        assert fed.answer.started

    def test_it_opens_with_the_first_token(self, make):
        fed = make("streamed")
        assert not fed.answer.started
        fed.feed(0, list(b"a"))
        fed.flush()
        assert fed.answer.started
        assert len(fed.written) == 2

    def test_kept_alive_before_the_first_token_it_goes_on_as_any_other(self, make):
        fed, plain = make("streamed"), make("streamed")
        fed.answer.keep_alive()
        assert fed.answer.started
        assert fed.answer.first_token_at is None
        assert fed.written == [b"", KEEP_ALIVE_COMMENT]
        for each in (fed, plain):
            play(each, list(b"abcd"), "length", [1, 1, 1, 1])
            assert each.answer.first_token_at is not None
        assert fed.written[2:] == plain.written[1:]

    @pytest.mark.parametrize("n", [1, 2])
    def test_quiet_is_what_wrote_nothing_since_it_was_asked(self, make, n):
        fed = make("streamed", n=n)
        assert fed.answer.was_quiet()
        fed.feed(0, [65])
        fed.flush()
        assert not fed.answer.was_quiet()
        fed.answer.keep_alive()
        assert fed.answer.was_quiet()
        assert fed.answer.was_quiet()
        for token in b"BC":
            fed.feed(0, [token])
            fed.flush()
            assert b"%c" % token in fed.written[-1]
        assert not fed.answer.was_quiet()
        # Half of a character: nothing can be written yet.
        fed.feed(0, [0xC3])
        fed.flush()
        assert fed.answer.was_quiet()
        fed.feed(0, [0xA4])
        fed.fail(EngineUnavailableError("gone"))
        assert b"engine_unavailable" in fed.written[-1]
        assert not fed.answer.was_quiet()
        fed.answer.close()
        assert not fed.responses

    def test_after_the_end_it_is_not_kept_alive(self, make):
        fed = make("streamed")
        play(fed, list(b"ab"), "length", [1, 1])
        written = list(fed.written)
        fed.answer.keep_alive()
        assert fed.written == written

    def test_a_fault_while_it_is_kept_alive_ends_this_answer_alone(self, make, monkeypatch):
        fed = make("streamed")
        monkeypatch.setattr(ChatStream, "begin", lambda _self: 1 / 0)
        fed.answer.keep_alive()
        assert isinstance(fed.error, InternalError)
        assert not fed.answer.started
        assert fed.aborted == fed.answer.sequences

    def test_what_came_together_leaves_together(self, make):
        fed = make("streamed", n=2)
        fed.feed(0, list(b"abc"), "length")
        fed.feed(1, list(b"def"), "length")
        fed.flush()
        assert len(fed.written) == 2

    def test_a_step_without_text_writes_nothing(self, make):
        fed = make("streamed")
        fed.feed(0, list(b"a"))
        fed.flush()
        count = len(fed.written)
        fed.feed(0, list("é".encode()[:1]))
        fed.flush()
        assert len(fed.written) == count

    def test_usage_only_if_wanted(self, make):
        fed = make("streamed", usage=False)
        fed.feed(0, list(b"a"), "length")
        fed.flush()
        *chunks, done = fed.events
        assert done == "[DONE]"
        assert all("usage" not in json.loads(chunk) for chunk in chunks)
        assert all(json.loads(chunk)["choices"] for chunk in chunks)


class TestWhole:
    @pytest.mark.parametrize("by_token", [False, True])
    def test_tokens_wait_until_the_end_unless_they_are_read_one_by_one(self, make, by_token):
        fed = make("whole")
        sequence = fed.answer.sequences[0]
        sequence.by_token = by_token
        fed.feed(0, list(b"ab"))
        fed.flush()
        assert sequence.pending == ([] if by_token else list(b"ab"))
        fed.feed(0, list(b"c"), "length")
        fed.flush()
        assert fed.outcome()[0] == ["abc"]

    def test_the_first_token_is_timed_once(self, make):
        fed = make("whole")
        assert fed.answer.first_token_at is None
        fed.feed(0, list(b"a"))
        fed.flush()
        first = fed.answer.first_token_at
        fed.feed(0, list(b"b"), "length")
        fed.flush()
        assert fed.answer.first_token_at == first is not None

    def test_an_error_is_no_first_token(self, make):
        fed = make("whole")
        fed.fail(EngineUnavailableError("gone"))
        assert fed.error
        assert fed.answer.first_token_at is None
