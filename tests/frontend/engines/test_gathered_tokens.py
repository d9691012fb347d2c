"""Streams whose tokens wait, while engines die, fail and time out and clients leave, at random.

Each gets exactly its text and one end, or all that came before its error.
"""

import asyncio
import gc
import json
import random
import weakref

import pytest

from vgate.config.schema import Routing
from vgate.engine.backends.dry_run.vocabulary import END
from vgate.frontend.answers import resumable
from vgate.frontend.answers.answer import CollectedAnswer, StreamedAnswer
from vgate.frontend.answers.choice import Choice, DecodeOptions
from vgate.frontend.answers.resumable import NumberedEvents, Readers, ResumableAnswer
from vgate.frontend.apis.openai.chat.response import ChatEncoder
from vgate.frontend.apis.openai.common import StreamOptions
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.output import flushing
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.http.waits import ClientDisconnected
from vgate.frontend.ids import Ids
from vgate.frontend.routing import Router
from vgate.wire.codec import decode_to_engine, encode, pack_token_ids, unpack_token_ids
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Delta,
    Ending,
    Failure,
    Failures,
    Generate,
    ModelInfo,
    Status,
    Step,
    Welcome,
)
from vgate.wire.parameters import SamplingParams
from vgate.wire.progress import Timing

INFO = ModelInfo(["m"], [], 1000, 4, 1000, 1, "fake")


class Loop:
    """A clock with timers, for which time passes when the test says so."""

    def __init__(self, real):
        self.now = 1000.0
        self.timers = []
        self.create_future = real.create_future

    def time(self):
        return self.now

    def call_later(self, delay_s, callback, *arguments):
        timer = Timer(self.now + delay_s, callback, arguments)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback, *arguments):
        return self.call_later(0.0, callback, *arguments)

    def until(self, moment):
        while due := [timer for timer in self.timers if timer.at <= moment]:
            first = min(due, key=lambda timer: timer.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.callback(*first.arguments)
        self.now = moment


class Timer:
    def __init__(self, at, callback, arguments):
        self.at, self.callback, self.arguments = at, callback, arguments

    def cancel(self):
        self.callback, self.arguments = (lambda: None), ()


class Engine(EngineClient):
    """An engine and the connection to it; what it generates is in `texts`, by the prompt.

    `sent` says how much of that some engine has.
    """

    def __init__(self, loop, owner, texts, sent, rng):
        self.texts, self.sent, self.rng = texts, sent, rng
        self.places = {}
        super().__init__(loop, "memory", "f", owner)
        self._flushing = flushing.Flushing(loop, loop.time)

    def _connect(self):
        self.places = {}
        return Dealer(self)

    def welcome(self):
        self._on_batch([encode(Welcome(PROTOCOL_VERSION, INFO))])

    def hear(self, message):
        if isinstance(message, Generate):
            done = len(unpack_token_ids(message.generated))
            self.places[message.id] = [unpack_token_ids(message.prompt)[0], done, True]
        elif isinstance(message, Abort):
            for number in message.ids:
                self.places.pop(number, None)

    def step(self):
        """Return the message of a step in which some sequences get a token, or several."""
        step = Step([], [], [])
        for number, place in list(self.places.items()):
            if self.rng.random() < 0.2:
                continue
            name, at, first = place
            tokens = self.texts[name][at : at + self.rng.choice([1, 1, 1, 2, 3])]
            last = at + len(tokens) == len(self.texts[name])
            place[1:] = at + len(tokens), False
            self.sent[name] = max(self.sent[name], at + len(tokens))
            if first or last or len(tokens) > 1:
                timing = Timing(0.1, 0) if first else None
                step.deltas.append(Delta(number, tokens, "stop" if last else None, timing=timing))
            else:
                step.ids.append(number)
                step.tokens.append(tokens[0])
            if last:
                del self.places[number]
        return encode(step)


class Dealer:
    def __init__(self, engine):
        self.engine = engine

    def send(self, payload):
        self.engine.hear(decode_to_engine(payload))

    def close(self, *, drop=False):
        self.engine.places = {}


class Asked:
    """A request: its answer, and what has to come of it."""

    def __init__(self, play, number, *, kind, stops, sampling, count):
        self.play, self.kind, self.count, self.stops = play, kind, count, stops
        self.written, self.closed, self.ends = [], False, 0
        self.names = [100 * number + index for index in range(count)]
        alphabet = b"ab<> "
        for name in self.names:
            size = play.rng.randrange(1, 60)
            play.texts[name], play.sent[name] = [*play.rng.choices(alphabet, k=size), END], 0
        self.wanted = [self.cut(bytes(play.texts[n][:-1]).decode(), stops) for n in self.names]
        reading = DecodeOptions(texts=play.token_texts, stops=stops)

        def make_choice(sequence):
            return Choice(sequence, [], reading)

        # Freed with the answer, to which there is no weak reference.
        self.gone = weakref.ref(make_choice)
        arguments = play.loop, make_choice, [10], count, play.pool.abort
        if kind == "whole":
            self.answer = CollectedAnswer(*arguments)
        else:
            encoder = ChatEncoder(
                id="id", created=1, model="m", stream_options=StreamOptions(include_usage=True)
            ).stream_encoder()
            streams = {"open_stream": lambda _: self.written.append}
            if kind == "stream":
                self.answer = StreamedAnswer(*arguments, stream_encoder=encoder, **streams)
            else:
                events = NumberedEvents(encoder, "s", Ids(b"x" * 16), [0] * count)
                streams |= {"readers": play.readers, "events": events, "keep_s": 0.02}
                self.answer = ResumableAnswer(*arguments, **streams)
        for sequence, name in zip(self.answer.sequences, self.names, strict=True):
            message = Generate(play.pool.next_id(), pack_token_ids([name]), sampling)
            play.pool.submit(sequence, message, 3600.0)

    @staticmethod
    def cut(text, stops):
        return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)]

    def leave(self):
        if not self.closed:
            self.answer.give_up()

    @property
    def over(self):
        return self.answer.done.done()

    def close(self):
        """Do what the pipeline does at the end."""
        done = self.answer.done
        self.error = done.exception()
        self.play.pool.abort(self.answer.sequences)
        self.found = self.texts()
        self.answer.close()
        self.answer, self.closed = None, True

    def texts(self):
        if self.kind == "whole":
            if self.error is not None:
                return [""] * self.count
            return [choice.text for choice in self.answer.result().choices]
        events = b"".join(self.written).decode().split("\n\n")[:-1]
        texts, ended = [""] * self.count, [0] * self.count
        for event in events:
            data = event.partition("data: ")[2]
            if data == "[DONE]":
                self.ends += 1
                continue
            chunk = json.loads(data)
            self.ends += "error" in chunk
            for choice in chunk.get("choices", ()):
                assert not ended[choice["index"]]
                content = choice["delta"].get("content") or ""
                texts[choice["index"]] += content
                # Which events there are may not depend on how tokens come.
                assert len(content) <= 1 or self.stops or self.kind == "stream"
                ended[choice["index"]] += choice["finish_reason"] is not None
        if self.error is None:
            assert ended == [1] * self.count
        return texts

    def check(self):
        if self.error is None:
            assert self.found == self.wanted
        for found, wanted in zip(self.found, self.wanted, strict=True):
            assert wanted.startswith(found)
        left = isinstance(self.error, ClientDisconnected)
        if (
            self.error is not None
            and not left
            and self.written
            and self.kind == "stream"
            and self.count == 1
            and not self.stops
        ):
            assert len(self.found[0]) == self.play.sent[self.names[0]], "tokens before the error"
        assert self.ends == (bool(self.written) and not left)


class Play:
    def __init__(self, real, token_texts, seed):
        self.rng = random.Random(seed)
        self.loop, self.token_texts, self.texts, self.sent = Loop(real), token_texts, {}, {}
        self.readers = Readers(self.loop)
        self.pool = EnginePool(
            self.loop,
            on_model=lambda _: None,
            on_lost=lambda: None,
            survivors=Survivors(enabled=True, hold_s=60.0, most_held=1000),
        )
        self.pool.route(Router(Routing(policy="round_robin"), self.loop.time, seed=seed))
        parts = self.loop, self.pool, self.texts, self.sent, self.rng
        self.engines = [Engine(*parts) for _ in range(2)]
        for engine in self.engines:
            self.pool.add(engine)
            engine.welcome()
        self.asked = [self.ask(number) for number in range(self.rng.randrange(1, 30))]

    def ask(self, number):
        rng = self.rng
        return Asked(
            self,
            number,
            kind=rng.choice(["whole", "stream", "stream", "stream", "resumable"]),
            stops=rng.choice([(), (), ("<>",), ("a b", "bb>")]),
            # With a penalty one is repeated in the next engine; with chance it ends with its own.
            sampling=rng.choice(
                [
                    SamplingParams(temperature=0.0),
                    SamplingParams(temperature=0.0, presence_penalty=1.0),
                    SamplingParams(temperature=1.0, presence_penalty=1.0),
                ]
            ),
            count=rng.choice([1, 1, 1, 2, 3]),
        )

    def happen(self):
        """Let one thing happen."""
        rng, engine = self.rng, self.rng.choice(self.engines)
        chance = rng.random()
        if chance < 0.02:
            if engine.connected:
                ending = [engine.step() for _ in range(rng.randrange(3))]
                engine._on_batch([*ending, encode(Ending("boom"))])
        elif chance < 0.04 and engine.places:
            number = rng.choice(list(engine.places))
            del engine.places[number]
            failure = encode(Failures([Failure(number, "internal_error", "broken")]))
            engine._on_batch([engine.step(), failure] if rng.random() < 0.3 else [failure])
        elif chance < 0.06 and engine._running:
            rng.choice(list(engine._running.values())).deadline = 0.0
            engine._sweep()
        elif chance < 0.08:
            rng.choice(self.asked).leave()
        elif chance < 0.4:
            self.loop.until(self.loop.now + rng.choice([0.0001, 0.001, 0.01, 0.03]))
        else:
            if not engine.connected:
                engine.welcome()
            messages = [engine.step() for _ in range(rng.choice([1, 1, 1, 2, 4]))]
            if rng.random() < 0.1:
                messages.append(encode(Status(0, 0, 0.0)))
            engine._on_batch(messages)

    def run(self):
        while any(not asked.closed for asked in self.asked):
            self.happen()
            for asked in self.asked:
                if not asked.closed and asked.over and self.rng.random() < 0.5:
                    asked.close()
        for asked in self.asked:
            asked.check()
        self.loop.until(self.loop.now + 0.1)
        assert all(not engine._flushing.waiting for engine in self.engines)
        assert all(not engine.in_flight for engine in self.engines)
        # Not even the garbage collector is needed.
        assert all(asked.gone() is None for asked in self.asked)


@pytest.fixture
def real():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("each_s", [0.0, 0.0004, 0.004])
@pytest.mark.parametrize("seed", range(10))
def test_every_stream_gets_its_text_and_one_end(real, built_in, monkeypatch, each_s, seed):
    monkeypatch.setattr(flushing, "_EACH_S", each_s)
    # So that they are behind.
    monkeypatch.setattr(resumable, "_AT_ONCE", 1)
    gc.disable()
    try:
        Play(real, built_in.token_texts, seed).run()
    finally:
        gc.enable()
