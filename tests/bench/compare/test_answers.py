"""Two servers' answers: what is put together, what is left out, and what counts as different."""

import json

from bench.compare_answers.__main__ import DIFFERENT, EQUAL, REFUSED, Verdict, judge, main, table
from bench.compare_answers.answers import Answer, content_of, put_together
from bench.compare_answers.cases import CHAT, COMPLETIONS, Case, cases
from bench.compare_answers.difference import Difference, first_difference

CASE = Case("group", "name", CHAT, {})


def stream(*events: object) -> bytes:
    lines = [f"data: {json.dumps(event)}" for event in events]
    return "\n\n".join([*lines, "data: [DONE]", ""]).encode()


def chunk(**choice: object) -> dict[str, object]:
    return {"id": "1", "choices": [{"index": 0, **choice}]}


def test_a_stream_becomes_the_answer_that_was_cut_up() -> None:
    entry = {"token": "a", "logprob": -0.5}
    whole = content_of(
        put_together(
            stream(
                chunk(delta={"role": "assistant", "content": ""}, logprobs=None),
                chunk(delta={"content": "ab"}, logprobs={"content": [entry]}),
                chunk(delta={"content": "c"}, logprobs={"content": [entry]}),
                chunk(delta={}, finish_reason="length"),
                {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "x": 3}},
            )
        )
    )
    choice = whole["choices"][0]
    assert choice["delta"] == {"role": "assistant", "content": "abc"}
    assert choice["logprobs"] == {"content": [entry, entry]}
    assert choice["finish_reason"] == "length"
    assert whole["usage"] == {"prompt_tokens": 1, "completion_tokens": 2}
    assert whole["done"] is True


def test_tool_calls_are_put_together_by_index() -> None:
    def call(index: int, **function: str) -> dict[str, object]:
        return chunk(delta={"tool_calls": [{"index": index, "function": function}]})

    events = stream(
        call(0, name="f", arguments='{"a"'), call(1, name="g"), call(0, arguments=":1}")
    )
    calls = put_together(events)["choices"][0]["delta"]["tool_calls"]
    assert [c["function"] for c in calls] == [{"name": "f", "arguments": '{"a":1}'}, {"name": "g"}]


def test_what_is_new_in_every_answer_and_what_is_empty_is_not_compared() -> None:
    one = {"id": "1", "created": 5, "choices": [{"text": "x", "logprobs": None}]}
    other = {"id": "2", "created": 6, "choices": [{"text": "x", "tool_calls": []}]}
    assert content_of(one) == content_of(other) == {"choices": [{"text": "x"}]}


def test_log_probabilities_may_differ_a_little() -> None:
    ours, theirs = {"a": [{"logprob": -1.00004}]}, {"a": [{"logprob": -1.0}]}
    assert first_difference(ours, theirs) is None
    found = first_difference({"a": [{"logprob": -1.0002}]}, theirs)
    assert found == Difference("a[0].logprob", "-1.0002", "-1.0")


def test_the_first_difference_has_its_place() -> None:
    assert first_difference({"a": [1, 2]}, {"a": [1]}) == Difference("a.length", "2", "1")
    assert first_difference({"a": 1}, {"b": 1}) == Difference("b", "absent", "1")
    text = "x" * 100
    found = first_difference({"t": f"{text}y"}, {"t": f"{text}z"})
    assert found == Difference("t, character 100", "'y'", "'z'")
    assert first_difference({"t": True}, {"t": "true"}) is not None
    assert first_difference("a", "a") is None


def test_statuses_are_judged_before_contents() -> None:
    good = Answer(200, {"choices": []})
    bad = Answer(400, "no | such field")
    assert judge(CASE, good, good).outcome == EQUAL
    assert judge(CASE, bad, Answer(400, "other words")).outcome == REFUSED
    verdict = judge(CASE, bad, good)
    assert verdict.outcome == DIFFERENT
    assert verdict.difference == Difference("status", "400: no | such field", "200")
    assert "| group: name | DIFFERENT | status | 400: no \\| such field | 200 |" in table(
        [verdict, Verdict("g", "n", EQUAL)], "vllm-serve"
    )
    assert table([verdict], "x").endswith("0 equal, 1 DIFFERENT, 0 refused by both")


def test_every_case_has_one_right_answer_and_its_own_name() -> None:
    names = [(case.group, case.name) for case in cases()]
    assert len(set(names)) == len(names)
    for case in cases():
        assert case.path in (CHAT, COMPLETIONS)
        assert case.body["temperature"] == 0 or "seed" in case.body, case.name


def test_nothing_to_compare_is_refused() -> None:
    assert main(["--only", "no case is called this"]) == 2


def place(token: str, logprob: float, *most: tuple[str, float]) -> dict[str, object]:
    top = [{"token": name, "logprob": value} for name, value in most]
    return {"token": token, "logprob": logprob, "top_logprobs": top}


def places(*content: object) -> Answer:
    return Answer(200, {"choices": [{"logprobs": {"content": list(content)}}]})


def test_what_differs_on_purpose_is_not_compared() -> None:
    ours = places(place("c", -3.0, ("a", -1.0), ("b", -2.0)))
    theirs = places(place("c", -3.0, ("c", -3.0), ("a", -1.0)))
    assert judge(CASE, ours, theirs).outcome == EQUAL
    echo = Answer(200, {"choices": [{"text": "a", "prompt_token_ids": [1]}]})
    plain = Answer(200, {"choices": [{"text": "a"}]})
    assert judge(CASE, plain, echo).outcome == EQUAL
    one = Answer(200, {"choices": [{"logprobs": {"tokens": ["x"], "text_offset": [1]}}]})
    other = Answer(200, {"choices": [{"logprobs": {"tokens": ["x"], "text_offset": [2]}}]})
    assert judge(CASE, one, other).outcome == EQUAL


def test_all_else_is_compared() -> None:
    ours = places(place("c", -3.0, ("a", -1.0), ("b", -2.0)))
    for theirs in (
        places(place("c", -3.0, ("c", -3.0), ("a", -1.1))),
        places(place("c", -3.1, ("c", -3.1), ("a", -1.0))),
        places(place("d", -3.0, ("d", -3.0), ("a", -1.0))),
        places(place("c", -3.0, ("a", -1.0))),
    ):
        assert judge(CASE, ours, theirs).outcome == DIFFERENT
    asked = Case("group", "name", CHAT, {"stop_token_ids": [7], "return_token_ids": True})
    plain = Answer(200, {"choices": [{"text": "a"}]})
    for more in ({"stop_reason": 7}, {"prompt_token_ids": [1]}):
        told = Answer(200, {"choices": [{"text": "a", **more}]})
        assert judge(asked, plain, told).outcome == DIFFERENT
    own_end = Answer(200, {"choices": [{"text": "a", "stop_reason": 7}]})
    assert judge(CASE, plain, own_end).outcome == DIFFERENT
