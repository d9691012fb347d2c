"""vLLM's fields through the official Python client's `extra_body`."""

from typing import Any

import openai
import pytest

from tests.sdk.conversation import MODEL, user


def ask(client: openai.OpenAI, text: str, extra: dict[str, Any], **params: Any) -> Any:
    answer = client.chat.completions.create(
        model=MODEL, messages=user(text), extra_body=extra, **params
    )
    return answer.choices[0]


@pytest.mark.parametrize(
    "extra",
    [
        {"top_k": 5},
        {"top_k": -1},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"skip_special_tokens": False, "stop": ["<|end|>"]},
        {"spaces_between_special_tokens": False},
        {"priority": 3},
        {"cache_salt": "mine"},
        {"truncate_prompt_tokens": 4000},
        {"add_generation_prompt": True},
        {"use_beam_search": False, "best_of": 1, "length_penalty": 1.0},
        {"kv_transfer_params": {}, "vllm_xargs": {}, "return_prompt_text": False},
        {"session_id": "x"},
    ],
    ids=str,
)
def test_accepted(client: openai.OpenAI, extra: dict[str, Any]):
    assert ask(client, "abc", extra).message.content == "abc"


def test_ignore_eos(client: openai.OpenAI):
    choice = ask(client, "ab", {"ignore_eos": True}, max_tokens=5)
    assert (choice.message.content, choice.finish_reason) == ("ababa", "length")


def test_min_tokens(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model=MODEL, messages=user("ab"), extra_body={"min_tokens": 7}, max_tokens=20
    )
    assert answer.usage.completion_tokens >= 7
    assert answer.choices[0].finish_reason == "stop"


def test_stop_token_ids(client: openai.OpenAI):
    choice = ask(client, "abc", {"stop_token_ids": [99]})
    assert (choice.message.content, choice.finish_reason) == ("ab", "stop")
    assert choice.stop_reason == 99


def test_include_stop_str_in_output(client: openai.OpenAI):
    choice = ask(client, "abc", {"include_stop_str_in_output": True}, stop=["b"])
    assert (choice.message.content, choice.stop_reason) == ("ab", "b")


def test_allowed_token_ids(client: openai.OpenAI):
    choice = ask(client, "abc", {"allowed_token_ids": [97, 99, 256]})
    assert choice.message.content == "ac"


def test_bad_words(client: openai.OpenAI):
    assert "b" not in ask(client, "abc", {"bad_words": ["b"]}).message.content


def test_return_token_ids(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model=MODEL, messages=user("ab"), extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].token_ids[:2] == [97, 98]
    assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens


def test_streamed_token_ids(client: openai.OpenAI):
    ids = []
    for chunk in client.chat.completions.create(
        model=MODEL, messages=user("ab"), extra_body={"return_token_ids": True}, stream=True
    ):
        ids += getattr(chunk.choices[0], "token_ids", None) or []
    assert ids[:2] == [97, 98]


def test_echo(client: openai.OpenAI):
    messages = [*user("x"), {"role": "assistant", "content": "So"}]
    extra = {"echo": True, "add_generation_prompt": False, "continue_final_message": True}
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, extra_body=extra, max_tokens=3
    )
    assert answer.choices[0].message.content.startswith("So")


@pytest.mark.parametrize(
    ("extra", "code", "param"),
    [
        ({"use_beam_search": True}, "unsupported_parameter", "use_beam_search"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"prompt_embeds": "x"}, "unsupported_parameter", "prompt_embeds"),
        ({"chat_template": "x"}, "unsupported_parameter", "chat_template"),
        ({"top_k": -2}, "invalid_value", "top_k"),
        ({"min_p": 2}, "invalid_value", "min_p"),
        ({"repetition_penalty": 0}, "invalid_value", "repetition_penalty"),
        ({"stop_token_ids": [10**6]}, "invalid_value", "stop_token_ids"),
        ({"cache_salt": ""}, "invalid_value", "cache_salt"),
        ({"priority": -1}, "invalid_value", "priority"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(client: openai.OpenAI, extra: dict[str, Any], code: str, param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "abc", extra)
    assert (refused.value.code, refused.value.param) == (code, param)
    assert f"`{param}`" in refused.value.body["message"]
