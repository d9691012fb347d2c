"""From a step's outputs to one message for each frontend."""

from tests.wire.steps import deltas_of
from vgate.engine.backends.base import Output
from vgate.engine.delivery import catch_up, deliver_embeddings, deliver_tokens
from vgate.engine.request import Request, RequestError
from vgate.wire.messages import Delta, Embedding, Embeddings, Logprobs, Step
from vgate.wire.sampling import SamplingParams

A, B = b"a", b"b"
PLACE = Logprobs([5, 6], [-0.5, -1.0], 1)


def running(**subscribers: list[tuple[bytes, int]]) -> dict[str, Request]:
    requests = {key: Request(key, [1, 2], SamplingParams()) for key in subscribers}
    for key, request in requests.items():
        request.subscribers = subscribers[key]
    return requests


def test_tokens_go_to_all_subscribers() -> None:
    requests = running(x=[(A, 1), (B, 7)], y=[(A, 2)])
    outputs = [Output("x", [3], None, 4), Output("y", [5, 6], "stop", 0)]
    delivery = deliver_tokens(outputs, requests)
    assert delivery.messages == {
        A: Step(deltas=[Delta(1, [3], None, 4), Delta(2, [5, 6], "stop")]),
        B: Step(deltas=[Delta(7, [3], None, 4)]),
    }
    assert delivery.finished == [requests["y"]]
    assert delivery.failed == []
    assert [requests[key].generated_tokens for key in "xy"] == [1, 2]
    assert [requests[key].cached_tokens for key in "xy"] == [4, 0]


def test_a_plain_token_travels_in_the_columns() -> None:
    requests = running(x=[(A, 1), (B, 7)], y=[(A, 2)], z=[(A, 3)], u=[(A, 4)], v=[(A, 5)])
    outputs = [
        Output("x", [30], None, 0),
        Output("y", [31, 32], None, 0),
        Output("z", [33], None, 8),
        Output("u", [34], "length", 0),
        Output("v", [35], None, 0),
    ]
    more = [Delta(2, [31, 32]), Delta(3, [33], None, 8), Delta(4, [34], "length")]
    assert deliver_tokens(outputs, requests).messages == {
        A: Step([1, 5], [30, 35], more),
        B: Step([7], [30], []),
    }


def test_logprobs_go_with_their_tokens() -> None:
    output = Output("x", [5], None, 0, logprobs=[PLACE], prompt_logprobs=[None, PLACE])
    ((delta,),) = (
        message.deltas
        for message in deliver_tokens([output], running(x=[(A, 1)])).messages.values()
    )
    assert (delta.logprobs, delta.prompt_logprobs) == ([PLACE], [None, PLACE])


def test_failed_requests_are_separate() -> None:
    requests, error = running(x=[(A, 1)], y=[(A, 2)]), RequestError("invalid_value", "no")
    outputs = [Output("x", [], None, 0, error=error), Output("y", [1], None, 0)]
    for deliver in (deliver_tokens, deliver_embeddings):
        delivery = deliver(outputs, requests)
        assert delivery.failed == [(requests["x"], error)]
        assert delivery.finished == []


def test_outputs_of_unknown_requests_are_dropped() -> None:
    output = Output("z", [1], "stop", 0, b"vector")
    for deliver in (deliver_tokens, deliver_embeddings):
        assert deliver([output], {}) == ({}, [], [])


def test_an_embedding_ends_its_request() -> None:
    requests = running(x=[(A, 1), (B, 2)])
    delivery = deliver_embeddings([Output("x", [], None, 0, b"vector")], requests)
    assert delivery.messages == {
        A: Embeddings([Embedding(1, b"vector")]),
        B: Embeddings([Embedding(2, b"vector")]),
    }
    assert delivery.finished == [requests["x"]]


def test_a_request_with_a_dedup_key_keeps_its_output() -> None:
    requests = running(x=[(A, 1)])
    requests["x"].dedup_key = b"digest"
    told = Output("x", [5], None, 3, logprobs=[PLACE], prompt_logprobs=[None, PLACE])
    for output in (told, Output("x", [6, 7], None, 0, logprobs=[PLACE, PLACE])):
        deliver_tokens([output], requests)
    delta = catch_up(requests["x"], (A, 9), buffered=False)
    assert delta == Delta(9, [5, 6, 7], None, 3, True, [PLACE] * 3, [None, PLACE])
    # What follows does not change what was sent.
    deliver_tokens([Output("x", [8], None, 0, logprobs=[PLACE])], requests)
    assert (delta.token_ids, delta.logprobs) == ([5, 6, 7], [PLACE] * 3)


class TestBuffered:
    """A buffered request gets its first token, and all others at its end."""

    def request(self) -> dict[str, Request]:
        requests = running(x=[(A, 1), (B, 7)])
        requests["x"].delivered = {(A, 1): 0}
        return requests

    def test_the_rest_comes_at_the_end(self) -> None:
        requests = self.request()
        sent = []
        for number, finish in enumerate([None, None, None, "length"]):
            output = Output("x", [number], finish, 5 if number == 0 else 0)
            sent.append(deliver_tokens([output], requests).messages)
        assert [step.get(A) for step in sent] == [
            Step(deltas=[Delta(1, [0], None, 5)]),
            None,
            None,
            Step(deltas=[Delta(1, [1, 2, 3], "length")]),
        ]
        # Others follow it token by token.
        assert [deltas_of(step[B])[0].token_ids for step in sent] == [[0], [1], [2], [3]]

    def test_with_its_log_probabilities(self) -> None:
        requests = self.request()
        outputs = [
            Output("x", [1], None, 0, logprobs=[PLACE], prompt_logprobs=[None]),
            Output("x", [2], None, 0, logprobs=[PLACE]),
            Output("x", [3], "stop", 0, logprobs=[PLACE]),
        ]
        steps = [deliver_tokens([output], requests).messages.get(A) for output in outputs]
        assert steps[0] == Step(deltas=[Delta(1, [1], logprobs=[PLACE], prompt_logprobs=[None])])
        assert steps[1] is None
        assert steps[2] == Step(deltas=[Delta(1, [2, 3], "stop", logprobs=[PLACE, PLACE])])

    def test_an_end_with_the_first_token_is_one_delta(self) -> None:
        messages = deliver_tokens([Output("x", [9], "stop", 0)], self.request()).messages
        assert messages[A] == Step(deltas=[Delta(1, [9], "stop")])

    def test_a_late_subscriber_gets_the_output_so_far_and_then_the_rest(self) -> None:
        requests = self.request()
        deliver_tokens([Output("x", [1], None, 0)], requests)
        deliver_tokens([Output("x", [2], None, 0)], requests)
        delta = catch_up(requests["x"], (A, 2), buffered=True)
        assert (delta.token_ids, delta.coalesced) == ([1, 2], True)
        requests["x"].subscribers.append((A, 2))
        assert A not in deliver_tokens([Output("x", [3], None, 0)], requests).messages
        last = deliver_tokens([Output("x", [4], "length", 0)], requests).messages[A]
        assert last == Step(deltas=[Delta(1, [2, 3, 4], "length"), Delta(2, [3, 4], "length")])
