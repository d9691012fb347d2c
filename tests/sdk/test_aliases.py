"""An alias with the official clients of OpenAI and Anthropic."""

import anthropic
import openai

from tests.e2e.instance import Instance
from tests.sdk.conversation import ALIAS, BRIEF, user


def test_openai(client: openai.OpenAI):
    card = client.models.retrieve(BRIEF)
    assert (card.parent, card.root) == (ALIAS, client.models.retrieve(ALIAS).root)
    given = {"model": BRIEF, "messages": user("Good morning")}
    answer = client.chat.completions.with_raw_response.create(**given, max_tokens=50)
    assert answer.headers["x-vgate-ignored"] == "max_tokens"
    parsed = answer.parse()
    assert (parsed.model, parsed.choices[0].message.content) == (BRIEF, "Good")
    plain = client.chat.completions.create(**{**given, "model": ALIAS}, max_tokens=4)
    assert plain.choices[0].message.content == "Good"
    assert parsed.usage.prompt_tokens > plain.usage.prompt_tokens + len("Be brief.")


def test_anthropic(gateway: Instance):
    with anthropic.Anthropic(base_url=gateway.url, api_key="unused", max_retries=0) as client:
        given = {"model": BRIEF, "messages": user("Good morning")}
        message = client.messages.create(**given, max_tokens=50, system="Mine.")
        assert (message.model, message.content[0].text) == (BRIEF, "Good")
        assert message.stop_reason == "max_tokens"
        with client.messages.stream(**given, max_tokens=2) as stream:
            assert stream.get_final_message().model == BRIEF
            assert stream.get_final_text() == "Go"
