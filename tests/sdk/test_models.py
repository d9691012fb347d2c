"""The list of models with the official Python client."""

import asyncio

import openai
import pytest

from tests.e2e.instance import Instance
from tests.sdk.conversation import ALIAS, BRIEF, EMBEDDER, MODEL


def test_the_list(client: openai.OpenAI):
    page = client.models.list()
    assert page.object == "list"
    assert [model.id for model in page.data] == [MODEL, ALIAS, BRIEF, EMBEDDER]
    assert [model.id for model in page] == [MODEL, ALIAS, BRIEF, EMBEDDER]
    assert {model.object for model in page} == {"model"}
    assert all(model.created > 1_700_000_000 and model.owned_by for model in page)


@pytest.mark.parametrize("name", [MODEL, ALIAS, BRIEF, EMBEDDER])
def test_one(client: openai.OpenAI, name: str):
    model = client.models.retrieve(name)
    assert model.id == name
    assert model in client.models.list().data


def test_vllms_fields(client: openai.OpenAI):
    assert client.models.retrieve(MODEL).max_model_len == 32_768


def test_an_unknown_one(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no/such model")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_models_cannot_be_deleted(client: openai.OpenAI):
    with pytest.raises(openai.APIStatusError) as refused:
        client.models.delete(MODEL)
    assert refused.value.status_code == 405
    assert refused.value.code == "method_not_allowed"


def test_async(gateway: Instance):
    async def run() -> list[str]:
        async with gateway.async_client() as client:
            return [model.id async for model in client.models.list()]

    assert asyncio.run(run()) == [MODEL, ALIAS, BRIEF, EMBEDDER]
