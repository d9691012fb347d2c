"""What a frontend's message becomes in the engine."""

import pytest

from tests.engine.fakes import MODEL
from vgate.engine.request import Request, RequestError, to_request
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Embed, Generate, ModelInfo
from vgate.wire.parameters import Classify, SamplingParams, Task

PROMPT = pack_token_ids([1, 2, 3])
MESSAGES: dict[Task, Generate | Embed] = {
    "generate": Generate(1, PROMPT, SamplingParams()),
    "embed": Embed(1, PROMPT, dimensions=4),
    "classify": Embed(1, PROMPT, classify=Classify(2, activation=False)),
}


@pytest.mark.parametrize(("given_", "expected"), [(7, 7), (None, 1)])
def test_max_tokens(given_, expected):
    assert Request("1", [1], SamplingParams(max_tokens=given_)).max_tokens == expected


def test_an_embedding_generates_none():
    assert Request("1", [1], None).max_tokens == 0


@pytest.mark.parametrize("task", MESSAGES)
@pytest.mark.parametrize("asked", MESSAGES)
def test_a_model_runs_its_own_task(task, asked):
    model = ModelInfo(MODEL.names, [], 100, 4, 1000, 1, "scripted", task=task)
    message = MESSAGES[asked]
    if task != asked:
        with pytest.raises(RequestError, match=f"runs the task {task}, not {asked}") as caught:
            to_request(message, "k", model, 0.0)
        assert caught.value.subject == "model"
        return
    request = to_request(message, "k", model, 0.0)
    assert request.prompt == [1, 2, 3]
    assert (request.sampling is None) == (task != "generate")
    if isinstance(message, Embed):
        assert (request.dimensions, request.classify) == (message.dimensions, message.classify)
