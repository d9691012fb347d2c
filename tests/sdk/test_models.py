"""The list of models with the official Python clients."""

import asyncio

import anthropic
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


class TestAnthropicsClient:
    @pytest.fixture
    def client(self, gateway: Instance):
        options = {"api_key": "unused", "max_retries": 0}
        with anthropic.Anthropic(base_url=gateway.url, **options) as client:
            yield client

    def test_the_list(self, client: anthropic.Anthropic):
        page = client.models.list()
        assert [info.id for info in page.data] == [MODEL, ALIAS, BRIEF, EMBEDDER]
        assert (page.first_id, page.last_id, page.has_more) == (MODEL, EMBEDDER, False)
        for info in page:
            # Answers are not checked by the client itself.
            type(info).model_validate_json(info.model_dump_json())
            assert (info.type, info.display_name) == ("model", info.id)
            assert info.created_at.timestamp() > 1_700_000_000

    def test_pages(self, client: anthropic.Anthropic):
        forwards = [info.id for info in client.models.list(limit=1)]
        assert forwards == [MODEL, ALIAS, BRIEF, EMBEDDER]
        backwards = [info.id for info in client.models.list(limit=1, before_id=EMBEDDER)]
        assert backwards == [BRIEF, ALIAS, MODEL]
        assert client.models.list(lifecycle=["retired"]).data == []

    @pytest.mark.parametrize("name", [MODEL, ALIAS, BRIEF, EMBEDDER])
    def test_one(self, client: anthropic.Anthropic, name: str):
        info = client.models.retrieve(name)
        assert info.id == name
        assert info in client.models.list().data

    def test_its_fields(self, client: anthropic.Anthropic):
        assert client.models.retrieve(MODEL).max_input_tokens == 32_768

    def test_an_unknown_one(self, client: anthropic.Anthropic):
        with pytest.raises(anthropic.NotFoundError) as refused:
            client.models.retrieve("no/such model")
        assert refused.value.body["error"]["type"] == "not_found_error"
        with pytest.raises(anthropic.BadRequestError, match="`after_id`"):
            client.models.list(after_id="none")
