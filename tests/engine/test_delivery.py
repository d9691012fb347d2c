"""From a step's outputs to one message for each frontend."""

from collections.abc import Iterable

from tests.wire.steps import deltas_of
from vgate.engine.backends.base import Facts, Output, Outputs
from vgate.engine.delivery import catch_up, deliver_embeddings, deliver_tokens
from vgate.engine.request import Request, RequestError
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import Delta, Embedding, Embeddings, Step
from vgate.wire.parameters import SamplingParams
from vgate.wire.progress import Timing

A, B = b"a", b"b"
AT_ONCE = Timing(0.0)
PLACE = Logprobs.of((5, 6), (-0.5, -1.0), 1)


def running(**subscribers: list[tuple[bytes, int]]) -> dict[str, Request]:
    requests = {key: Request(key, [1, 2], SamplingParams()) for key in subscribers}
    for key, request in requests.items():
        request.subscribers = subscribers[key]
    return requests


def test_tokens_go_to_all_subscribers() -> None:
    requests = running(x=[(A, 1), (B, 7)], y=[(A, 2)])
    outputs = [Output("x", [3], None, Facts(4)), Output("y", [5, 6], "stop", Facts())]
    delivery = deliver_tokens(outputs, requests, 0.0)
    assert delivery.messages == {
        A: Step(
            deltas=[
                Delta(1, [3], None, 4, timing=AT_ONCE),
                Delta(2, [5, 6], "stop", timing=AT_ONCE),
            ]
        ),
        B: Step(deltas=[Delta(7, [3], None, 4, timing=AT_ONCE)]),
    }
    assert delivery.finished == [requests["y"]]
    assert delivery.failed == []
    assert [requests[key].generated_tokens for key in "xy"] == [1, 2]
    assert [requests[key].cached_tokens for key in "xy"] == [4, 0]


def test_a_step_s_columns_are_delivered_as_its_outputs_are() -> None:
    def delivered(outputs: Iterable[Output]) -> tuple[object, ...]:
        requests = running(x=[(A, 1), (B, 7)], y=[(A, 2)], z=[(B, 3)], kept=[(A, 4)], ended=[])
        # Kept for those who join, and one who reads it when it is complete.
        requests["kept"].dedup_key = requests["z"].dedup_key = b"equal"
        requests["z"].delivered = {(B, 3): 1}
        requests["z"].output, requests["z"].generated_tokens = [9], 1
        messages = deliver_tokens(outputs, requests, 0.0).messages
        return messages, {k: (r.generated_tokens, r.output) for k, r in requests.items()}

    others = [Output("y", [31, 32], None, None), Output("gone", [5], None, None)]
    keys, tokens = ["x", "z", "kept", "gone too"], [30, 33, 34, 35]
    outputs = Outputs(keys, tokens, others)
    plain = [Output(key, [token], None, None) for key, token in zip(keys, tokens, strict=True)]
    assert list(outputs) == [*plain, *others]
    messages, requests = delivered(outputs)
    assert (messages, requests) == delivered([*plain, *others])
    assert messages == {
        A: Step([1, 4], [30, 34], [Delta(2, [31, 32])]),
        B: Step([7], [30], []),
    }
    assert requests["kept"] == (1, [34])
    assert requests["z"] == (2, [9, 33])


def test_a_plain_token_travels_in_the_columns() -> None:
    requests = running(x=[(A, 1), (B, 7)], y=[(A, 2)], z=[(A, 3)], u=[(A, 4)], v=[(A, 5)])
    outputs = [
        Output("x", [30], None, None),
        Output("y", [31, 32], None, None),
        Output("z", [33], None, Facts(8)),
        Output("u", [34], "length", Facts()),
        Output("v", [35], None, None),
    ]
    more = [
        Delta(2, [31, 32]),
        Delta(3, [33], None, 8, timing=AT_ONCE),
        Delta(4, [34], "length", timing=AT_ONCE),
    ]
    assert deliver_tokens(outputs, requests, 0.0).messages == {
        A: Step([1, 5], [30, 35], more),
        B: Step([7], [30], []),
    }


def test_the_prefill_is_told_with_the_first_tokens_and_preemptions_at_the_end() -> None:
    requests = running(x=[(A, 1)])
    requests["x"].started = 12.0
    sent = []
    for now, output in (
        (15.0, Output("x", [1], None, Facts(4))),
        (16.0, Output("x", [2], None, None)),
        (20.0, Output("x", [3], "stop", Facts(0, preemptions=2))),
    ):
        delivery = deliver_tokens([output], requests, now)
        sent.append((delivery.messages[A], delivery.prefills_s))
    first, last = Timing(3.0), Timing(3.0, 2)
    assert sent == [
        (Step(deltas=[Delta(1, [1], None, 4, timing=first)]), [3.0]),
        (Step([1], [2]), []),
        (Step(deltas=[Delta(1, [3], "stop", timing=last)]), []),
    ]
    assert requests["x"].cached_tokens == 4


def test_logprobs_go_with_their_tokens() -> None:
    output = Output("x", [5], None, None, logprobs=[PLACE], prompt_logprobs=[None, PLACE])
    ((delta,),) = (
        message.deltas
        for message in deliver_tokens([output], running(x=[(A, 1)]), 0.0).messages.values()
    )
    assert (delta.logprobs, delta.prompt_logprobs) == ([PLACE], [None, PLACE])


def test_failed_requests_are_separate() -> None:
    requests, error = running(x=[(A, 1)], y=[(A, 2)]), RequestError("invalid_value", "no")
    outputs = [Output("x", [], None, None, error=error), Output("y", [1], None, None)]
    for delivery in (
        deliver_tokens(outputs, requests, 0.0),
        deliver_embeddings(outputs, requests),
    ):
        assert delivery.failed == [(requests["x"], error)]
        assert delivery.finished == []


def test_outputs_of_unknown_requests_are_dropped() -> None:
    output = Output("z", [1], "stop", Facts(), b"vector")
    assert deliver_tokens([output], {}, 0.0) == ({}, [], [], [])
    assert deliver_embeddings([output], {}) == ({}, [], [], [])


def test_an_embedding_ends_its_request() -> None:
    requests = running(x=[(A, 1), (B, 2)])
    delivery = deliver_embeddings([Output("x", [], None, None, b"vector")], requests)
    assert delivery.messages == {
        A: Embeddings([Embedding(1, b"vector")]),
        B: Embeddings([Embedding(2, b"vector")]),
    }
    assert delivery.finished == [requests["x"]]


def test_a_request_with_a_dedup_key_keeps_its_output() -> None:
    requests = running(x=[(A, 1)])
    requests["x"].dedup_key = b"digest"
    told = Output("x", [5], None, Facts(3), logprobs=[PLACE], prompt_logprobs=[None, PLACE])
    for output in (told, Output("x", [6, 7], None, None, logprobs=[PLACE, PLACE])):
        deliver_tokens([output], requests, 0.0)
    delta = catch_up(requests["x"], (A, 9), buffered=False)
    assert delta == Delta(9, [5, 6, 7], None, 3, True, [PLACE] * 3, [None, PLACE])
    # What follows does not change what was sent.
    deliver_tokens([Output("x", [8], None, None, logprobs=[PLACE])], requests, 0.0)
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
            output = Output(
                "x", [number], finish, Facts(5) if number == 0 else Facts() if finish else None
            )
            sent.append(deliver_tokens([output], requests, 0.0).messages)
        assert [step.get(A) for step in sent] == [
            Step(deltas=[Delta(1, [0], None, 5, timing=AT_ONCE)]),
            None,
            None,
            Step(deltas=[Delta(1, [1, 2, 3], "length", timing=AT_ONCE)]),
        ]
        # Others follow it token by token.
        assert [deltas_of(step[B])[0].token_ids for step in sent] == [[0], [1], [2], [3]]

    def test_with_its_log_probabilities(self) -> None:
        requests = self.request()
        outputs = [
            Output("x", [1], None, None, logprobs=[PLACE], prompt_logprobs=[None]),
            Output("x", [2], None, None, logprobs=[PLACE]),
            Output("x", [3], "stop", Facts(), logprobs=[PLACE]),
        ]
        steps = [deliver_tokens([output], requests, 0.0).messages.get(A) for output in outputs]
        assert steps[0] == Step(deltas=[Delta(1, [1], logprobs=[PLACE], prompt_logprobs=[None])])
        assert steps[1] is None
        last = Delta(1, [2, 3], "stop", logprobs=[PLACE, PLACE], timing=AT_ONCE)
        assert steps[2] == Step(deltas=[last])

    def test_an_end_with_the_first_token_is_one_delta(self) -> None:
        messages = deliver_tokens([Output("x", [9], "stop", Facts())], self.request(), 0.0).messages
        assert messages[A] == Step(deltas=[Delta(1, [9], "stop", timing=AT_ONCE)])

    def test_a_late_subscriber_gets_the_output_so_far_and_then_the_rest(self) -> None:
        requests = self.request()
        deliver_tokens([Output("x", [1], None, None)], requests, 0.0)
        deliver_tokens([Output("x", [2], None, None)], requests, 0.0)
        delta = catch_up(requests["x"], (A, 2), buffered=True)
        assert (delta.token_ids, delta.coalesced) == ([1, 2], True)
        requests["x"].subscribers.append((A, 2))
        assert A not in deliver_tokens([Output("x", [3], None, None)], requests, 0.0).messages
        last = deliver_tokens([Output("x", [4], "length", Facts())], requests, 0.0).messages[A]
        assert last == Step(
            deltas=[
                Delta(1, [2, 3, 4], "length", timing=AT_ONCE),
                Delta(2, [3, 4], "length", timing=AT_ONCE),
            ]
        )
