"""``/tokenize``, ``/detokenize`` and ``/version`` through the app."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vgate
from tests.frontend.conftest import load, model_info
from tests.frontend.gateway import post
from vgate.config.model import Model
from vgate.config.schema import Server
from vgate.frontend.apis.openai.tokenize import TokenizeChat, TokenizeText, decode_tokenize
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import pipeline
from vgate.frontend.text.library_tokenizer import LibraryTokenizer

NEW_WORDS = "".join(f"x{number:x}y " for number in range(200))
HI = [{"role": "user", "content": "hi"}]
USER, END, ASSISTANT = 258, 256, 259


class TestText:
    def test_all_that_is_answered(self, serve):
        async def scenario(gateway):
            answer = await post(gateway, "/tokenize", {"prompt": "hé"})
            assert answer.status == 200
            assert answer.json == {
                "count": 3,
                "max_model_len": 77,
                "tokens": [104, 0xC3, 0xA9],
                "token_strs": None,
            }

        serve(scenario, model=Model(max_model_len=77))

    def test_every_name_and_none(self, serve):
        async def scenario(gateway):
            for model in ("org/a", "b", None):
                answer = await post(gateway, "/tokenize", {"prompt": "x", "model": model})
                assert answer.json["tokens"] == [120]
            answer = await post(gateway, "/tokenize", {"prompt": "x", "model": "c"})
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")

        model = Model(served_model_name=["org/a", "b"])
        serve(scenario, model=model, server=Server(any_model_name=False))

    def test_special_tokens_and_their_spelling(self, serve, framed_dir):
        async def scenario(gateway):
            body = {"prompt": "a b x", "return_token_strs": True}
            answer = await post(gateway, "/tokenize", body)
            assert answer.json["tokens"] == [0, 3, 4, 2, 1]
            assert answer.json["token_strs"] == ["[CLS]", "a", "b", "[UNK]", "[SEP]"]
            answer = await post(gateway, "/tokenize", {**body, "add_special_tokens": False})
            assert answer.json["tokens"] == [3, 4, 2]
            assert answer.json["count"] == 3
            assert answer.json["token_strs"] == ["a", "b", "[UNK]"]

        serve(scenario, model=Model(model_id=str(framed_dir), task="embed"))

    def test_so_many_tokens_are_spelled_and_no_more(self, serve, monkeypatch):
        monkeypatch.setattr(pipeline, "_MOST_SPELLED", 9)

        async def scenario(gateway):
            for size, spell, status in ((9, True, 200), (10, True, 400), (10, False, 200)):
                body = {"prompt": "x" * size, "return_token_strs": spell}
                answer = await post(gateway, "/tokenize", body)
                assert answer.status == status
                if status == 400:
                    assert answer.error["param"] == "return_token_strs"

        serve(scenario)

    def test_an_empty_text_has_no_tokens(self, serve):
        async def scenario(gateway):
            answer = await post(gateway, "/tokenize", {"prompt": ""})
            assert (answer.status, answer.json["tokens"], answer.json["count"]) == (200, [], 0)

        serve(scenario)

    def test_a_long_text_may_be_longer_than_the_context(self, serve):
        async def scenario(gateway):
            answer = await post(gateway, "/tokenize", {"prompt": "x" * 50_000})
            assert answer.json["count"] == 50_000

        serve(scenario)

    def test_those_that_are_not_spelled_are_freed_at_once(self, serve, monkeypatch):
        encode, encoded = LibraryTokenizer.encode_batch, []

        def recorded(*given, **named):
            encoded.append(encode(*given, **named))
            return encoded[-1]

        monkeypatch.setattr(LibraryTokenizer, "encode_batch", recorded)
        monkeypatch.setattr(pipeline, "_MOST_SPELLED", 9)

        async def scenario(gateway):
            encoded.clear()
            body = {"prompt": "x" * 10, "return_token_strs": True}
            answer = await post(gateway, "/tokenize", body)
            assert "got 10" in answer.error["message"]
            assert encoded == [[[]]]

        serve(scenario)


class TestConversation:
    @pytest.mark.once
    @pytest.mark.parametrize("word", ["word ", "né ", NEW_WORDS])
    @pytest.mark.parametrize("turns", [2, 400])
    @pytest.mark.parametrize("chars", [50_000, 200_000])
    def test_a_long_conversation(self, serve, tiny_model_dir, tiny, word, turns, chars):
        # On a thread, at once, or from memory: the tokens are the same.
        messages = [
            {
                "role": ("user", "assistant")[turn % 2],
                "content": f"{turn} {word * (chars // turns)}"[: chars // turns],
            }
            for turn in range(turns)
        ]

        async def scenario(gateway):
            for more in (0, 1, 1, 2):
                said = [*messages, *messages[:more]]
                answer = await post(gateway, "/tokenize", {"messages": said})
                rendered = tiny.template.render(said)
                assert answer.json["tokens"] == tiny.tokenizer.library.encode(rendered).ids

        serve(scenario, model=Model(model_id=str(tiny_model_dir)))

    def test_it_is_what_the_chat_endpoint_sends(self, serve, tiny_model_dir):
        async def scenario(gateway):
            answer = await post(gateway, "/tokenize", {"messages": HI, "return_token_strs": True})
            assert answer.status == 200
            name = gateway.config.model.served_names[0]
            chat = {"model": name, "messages": HI, "max_tokens": 1}
            usage = (await post(gateway, "/v1/chat/completions", chat)).json["usage"]
            assert answer.json["count"] == usage["prompt_tokens"] == len(answer.json["tokens"])
            assert "<|im_start|>" in answer.json["token_strs"]
            # The same, if it is what the client wants to send.
            assert (await post(gateway, "/tokenize", chat)).json["count"] == answer.json["count"]

        serve(scenario, model=Model(model_id=str(tiny_model_dir)))

    def test_the_template_s_markers(self, serve):
        async def scenario(gateway):
            answer = await post(
                gateway, "/tokenize", {"messages": HI, "model": None, "prompt": None}
            )
            assert answer.json["tokens"] == [USER, *b"hi", END, ASSISTANT]

        serve(scenario)

    def test_a_model_without_a_template(self, serve, framed_dir):
        async def scenario(gateway):
            answer = await post(gateway, "/tokenize", {"messages": HI})
            assert (answer.status, answer.error["param"]) == (400, "messages")
            assert "has no chat template" in answer.error["message"]

        serve(scenario, model=Model(model_id=str(framed_dir), task="embed"))

    def test_special_tokens_are_only_added_if_asked_for(self):
        text = decode_tokenize(b'{"prompt": "x"}', Ignored())
        chat = decode_tokenize(json.dumps({"messages": HI}).encode(), Ignored())
        more = decode_tokenize(
            json.dumps({"messages": HI, "add_special_tokens": True}).encode(), Ignored()
        )
        assert isinstance(text, TokenizeText)
        assert isinstance(chat, TokenizeChat)
        assert text.add_special_tokens
        assert not chat.add_special_tokens
        assert more.add_special_tokens


class TestBack:
    def test_the_text_of_tokens(self, serve):
        async def scenario(gateway):
            tokens = [USER, *"hé".encode(), END]
            answer = await post(gateway, "/detokenize", {"tokens": tokens})
            assert answer.json == {"prompt": "<|user|>hé<|end|>"}
            answer = await post(gateway, "/detokenize", {"tokens": []})
            assert answer.json == {"prompt": ""}
            answer = await post(gateway, "/detokenize", {"tokens": [120] * 20_000})
            assert answer.json == {"prompt": "x" * 20_000}

        serve(scenario)

    def test_tokens_that_the_model_does_not_have(self, serve):
        async def scenario(gateway):
            answer = await post(gateway, "/detokenize", {"tokens": [1, 2, 260, 1]})
            assert (answer.status, answer.error["param"]) == (400, "tokens[2]")
            assert "0 to 259, got 260" in answer.error["message"]

        serve(scenario)

    @settings(deadline=None)
    @given(text=st.text())
    def test_there_and_back(self, tiny, text):
        normal = tiny.tokenizer.library.normalizer.normalize_str(text)
        assert (
            tiny.tokenizer.decode(tiny.tokenizer.encode(text), skip_special_tokens=False) == normal
        )


class TestTokenIds:
    def test_the_engine_s_word_counts(self, tiny_model_dir):
        few = load(tiny_model_dir)
        size = few.tokenizer.vocab_size
        few.check_token_ids([0, size - 1], "p")
        with pytest.raises(Exception, match=f"0 to {size - 1}, got {size}"):
            few.check_token_ids([size], "p")
        few.info = model_info(vocab_size=size + 5)
        few.check_token_ids([size + 4], "p")
        with pytest.raises(Exception, match=f"got {size + 5}"):
            few.check_token_ids([size + 5], "p")


BAD = [
    ("/tokenize", {}, "invalid_value", "prompt"),
    ("/tokenize", {"prompt": ["a"]}, "invalid_value", "prompt"),
    ("/tokenize", {"prompt": None}, "invalid_value", "prompt"),
    ("/tokenize", {"prompt": "a", "model": 1}, "invalid_value", "model"),
    ("/tokenize", {"prompt": "a", "truncate": 1}, "unknown_parameter", "truncate"),
    ("/tokenize", {"prompt": "a", "add_special_tokens": 2}, "invalid_value", "add_special_tokens"),
    ("/tokenize", {"prompt": "a", "messages": HI}, "unknown_parameter", "messages"),
    ("/tokenize", {"messages": []}, "invalid_value", "messages"),
    ("/tokenize", {"messages": [{"role": 5}]}, "invalid_value", "messages[0].role"),
    ("/tokenize", {"messages": HI, "zzz": 1}, "unknown_parameter", "zzz"),
    ("/tokenize", {"messages": HI, "return_token_strs": 2}, "invalid_value", "return_token_strs"),
    ("/tokenize", {"messages": HI, "model": 5}, "invalid_value", "model"),
    ("/tokenize", b"[]", "invalid_value", None),
    ("/tokenize", b"", "invalid_json", None),
    ("/tokenize", b'{"prompt": "\xff"}', "invalid_json", None),
    ("/tokenize", b'{"messages": [{"role": "user", "content": "\xff"}]}', "invalid_json", None),
    ("/tokenize", b'{"prompt": "\\ud800"}', "invalid_json", None),
    ("/tokenize", b'{"prompt": NaN}', "invalid_json", None),
    ("/tokenize", b'{"prompt": %s' % (b"[" * 50_000), "invalid_json", None),
    ("/detokenize", {}, "invalid_value", "tokens"),
    ("/detokenize", {"tokens": "a"}, "invalid_value", "tokens"),
    ("/detokenize", {"tokens": [-1]}, "invalid_value", "tokens[0]"),
    ("/detokenize", {"tokens": [1, 2**31]}, "invalid_value", "tokens[1]"),
    ("/detokenize", {"tokens": [1, 2**80]}, "invalid_value", "tokens[1]"),
    ("/detokenize", {"tokens": [1.5]}, "invalid_value", "tokens[0]"),
    ("/detokenize", {"tokens": [True]}, "invalid_value", "tokens[0]"),
    ("/detokenize", {"tokens": [[1]]}, "invalid_value", "tokens[0]"),
    ("/detokenize", {"tokens": [1], "x": 1}, "unknown_parameter", "x"),
]


def test_what_is_wrong_is_named(serve):
    async def scenario(gateway):
        for path, body, code, param in BAD:
            answer = await post(gateway, path, body)
            wanted = (400, code, param)
            assert answer.status == 400, body
            assert (answer.status, answer.error["code"], answer.error["param"]) == wanted, body

    serve(scenario, server=Server(unknown_fields="refuse"))


def test_an_engine_that_is_not_there(serve):
    async def scenario(gateway):
        gateway.tell_state("restarting")
        for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
            answer = await post(gateway, path, body)
            assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
        assert (await gateway.request("GET", "/version")).status == 200

    serve(scenario, engine=False)


def test_the_version(serve):
    async def scenario(gateway):
        answer = await gateway.request("GET", "/version")
        assert answer.json == {"version": vgate.__version__, "backend": "dry_run"}

    serve(scenario)


class TestTokenizerInfo:
    def test_a_model_with_all_of_it(self, serve, tiny_model_dir):
        async def scenario(gateway):
            answer = await gateway.request("GET", "/tokenizer_info")
            assert answer.status == 200
            config = json.loads((tiny_model_dir / "tokenizer_config.json").read_bytes())
            text = gateway.app.models[0].text
            assert answer.json == {
                **text.special_tokens,
                "tokenizer_class": config["tokenizer_class"],
                "chat_template": text.template.source,
                "model_max_length": 99,
            }
            assert answer.json["eos_token"]

        serve(scenario, model=Model(model_id=str(tiny_model_dir), max_model_len=99))

    def test_a_model_with_none_of_it(self, serve, framed_dir):
        async def scenario(gateway):
            answer = await gateway.request("GET", "/tokenizer_info")
            assert (answer.status, answer.json) == (200, {"model_max_length": 99})

        serve(scenario, model=Model(model_id=str(framed_dir), max_model_len=99))
