"""Loading a model's text files, and the errors of broken ones."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from tests.frontend.conftest import load, model_info
from vgate.config.model import Model
from vgate.engine.backends.dry_run.vocabulary import ASSISTANT, END, USER
from vgate.engine.served_files import read_model_files
from vgate.frontend.apis.openai.chat.request import ChatRequest, generation_of
from vgate.frontend.pipeline.decoding import reported_stop_ids
from vgate.frontend.text.model import TextModelError, load_text_model
from vgate.wire.model_files import NAMES, TOKENIZER
from vgate.wire.parameters import DEFAULTS

USER_SAYS_HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def directory(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A copy of the tiny model's text files, to be damaged."""
    for path in tiny_model_dir.iterdir():
        if path.suffix in {".json", ".jinja"}:
            shutil.copy(path, tmp_path)
    return tmp_path


def edit(path: Path, **changes):
    document = json.loads(path.read_text()) if path.exists() else {}
    document.update(changes)
    path.write_text(json.dumps(document))


class TestBuiltIn:
    def test_it_needs_no_files(self, built_in):
        text = built_in.template.render(USER_SAYS_HI)
        assert built_in.tokenizer.encode(text) == [USER, *b"Hi", END, ASSISTANT]
        assert built_in.defaults == DEFAULTS

    @pytest.mark.parametrize("text", ["", "a", "é世😀", "\0\x01\x7f", "line\nline\r\n"])
    def test_any_text_is_its_bytes(self, built_in, text):
        ids = built_in.tokenizer.encode(text)
        assert bytes(ids) == text.encode()
        assert built_in.tokenizer.decode(ids) == text

    @pytest.mark.parametrize("role", ["tool", "function", "anything"])
    def test_other_roles_are_rendered_as_the_user(self, built_in, role):
        text = built_in.template.render([{"role": role, "content": "x"}])
        assert text.startswith("<|user|>x")


class TestFiles:
    def test_the_directory_is_not_needed_once_they_are_read(self, directory, tiny):
        files = read_model_files(directory)
        shutil.rmtree(directory)
        model = load_text_model(model_info(), Model(), files)
        rendered = model.template.render(USER_SAYS_HI)
        assert model.tokenizer.encode(rendered) == tiny.tokenizer.encode(
            tiny.template.render(USER_SAYS_HI)
        )
        assert (model.eos_id, model.other_eos_ids) == (tiny.eos_id, tiny.other_eos_ids)
        # Its file is as large as the tokenizer.
        assert TOKENIZER not in files.contents

    def test_other_files_are_not_read(self, directory):
        (directory / "model.safetensors").write_bytes(b"large")
        assert TOKENIZER in read_model_files(directory).contents
        assert set(read_model_files(directory).contents) <= set(NAMES)

    def test_a_configured_template_replaces_the_built_in_one(self, tmp_path):
        (tmp_path / "mine.jinja").write_text("mine")
        model = load(None, chat_template=str(tmp_path / "mine.jinja"))
        assert model.template.render([]) == "mine"


class TestDirectory:
    def test_the_tiny_model(self, tiny):
        ids = tiny.tokenizer.encode(tiny.template.render(USER_SAYS_HI))
        assert tiny.tokenizer.decode(ids, skip_special_tokens=False).endswith(
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_special_tokens_of_the_template_become_one_token_each(self, tiny):
        end = tiny.tokenizer.token_to_id("<|im_end|>")
        assert tiny.tokenizer.encode("<|im_end|>") == [end]

    def test_no_special_tokens_are_added_to_a_rendered_text(self, directory):
        path = directory / "tokenizer.json"
        document = json.loads(path.read_text())
        end = "<|endoftext|>"
        number = next(t["id"] for t in document["added_tokens"] if t["content"] == end)
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": end, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {end: {"id": end, "ids": [number], "tokens": [end]}},
        }
        path.write_text(json.dumps(document))
        model = load(directory)
        assert model.tokenizer.encode_batch(["Hi"], special=True)[0][0] == number
        assert number not in model.tokenizer.encode("Hi")

    def test_truncation_and_padding_of_the_file_are_ignored(self, directory):
        edit(
            directory / "tokenizer.json",
            truncation={
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            },
            padding={
                "strategy": {"Fixed": 64},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<|endoftext|>",
            },
        )
        model = load(directory)
        text = "one two three four five six seven"
        assert model.tokenizer.decode(model.tokenizer.encode(text)) == text

    @pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"model": 5}', "\xff\xfe"])
    def test_a_missing_or_broken_tokenizer_is_an_error(self, directory, content):
        path = directory / "tokenizer.json"
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode("latin-1"))
        with pytest.raises(TextModelError, match=r"cannot read .*tokenizer\.json"):
            load(directory)

    @pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
    @pytest.mark.parametrize("content", ["", "{", "\xff"])
    def test_other_broken_files_are_an_error(self, directory, name, content):
        (directory / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(TextModelError, match=name):
            load(directory)


class TestEnds:
    def test_the_tokenizers_own_end_is_not_among_the_others(self, tiny):
        turn, text = map(tiny.tokenizer.token_to_id, ("<|im_end|>", "<|endoftext|>"))
        assert (tiny.eos_id, tiny.other_eos_ids) == (turn, {text})

    @pytest.mark.parametrize("ends", [None, [], "x", ["x", {}], {"a": 1}])
    def test_there_may_be_none(self, directory, ends):
        edit(directory / "generation_config.json", eos_token_id=ends)
        assert load(directory).other_eos_ids == frozenset()

    def test_those_of_a_file_whose_defaults_are_not_used_count_as_in_vllm(self, directory, tiny):
        text = load(directory, generation_config="vllm")
        assert text.other_eos_ids == tiny.other_eos_ids != frozenset()

    @pytest.mark.parametrize(
        ("asked", "ignore_eos", "named"),
        [
            (None, None, {0}),
            ([5], None, {0, 5}),
            ([5, "own"], None, {0, 5}),
            ([5, "own"], True, {5, "own"}),
            (None, True, set()),
        ],
    )
    def test_every_end_but_the_usual_one_is_reported(self, tiny, asked, ignore_eos, named):
        places = {"own": tiny.eos_id, 0: next(iter(tiny.other_eos_ids))}
        ids = None if asked is None else [places.get(token, token) for token in asked]
        request = msgspec.convert(
            {
                "model": "m",
                "messages": USER_SAYS_HI,
                "stop_token_ids": ids,
                "ignore_eos": ignore_eos,
            },
            ChatRequest,
        )
        assert reported_stop_ids(generation_of(request), tiny) == {
            places.get(token, token) for token in named
        }


class TestTemplate:
    def test_a_model_without_a_template(self, directory):
        edit(directory / "tokenizer_config.json", chat_template=None)
        assert load(directory).template is None
        (directory / "tokenizer_config.json").unlink()
        assert load(directory).template is None

    def test_a_template_file_takes_precedence(self, directory):
        (directory / "chat_template.jinja").write_text("from the file é", encoding="utf-8")
        assert load(directory).template.render(USER_SAYS_HI) == "from the file é"

    def test_a_configured_one_replaces_the_template_file(self, directory, tmp_path_factory):
        (directory / "chat_template.jinja").write_text("from the file")
        override = tmp_path_factory.mktemp("t") / "mine.jinja"
        override.write_text("mine")
        assert load(directory, chat_template=str(override)).template.render([]) == "mine"

    @pytest.mark.parametrize("name", ["missing.jinja", "./missing.jinja", "/no/such//file.jinja"])
    def test_a_configured_one_that_is_missing_is_an_error(self, directory, name):
        with pytest.raises(TextModelError, match="cannot read the chat template"):
            load(directory, chat_template=name)

    def test_the_default_of_several(self, directory):
        templates = [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "plain"},
        ]
        edit(directory / "tokenizer_config.json", chat_template=templates)
        assert load(directory).template.render([]) == "plain"

    def test_the_one_for_tools_of_several(self, directory):
        templates = [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "plain"},
            {"name": "rag", "template": "{% broken"},
        ]
        edit(directory / "tokenizer_config.json", chat_template=templates)
        assert load(directory).tool_template.render([]) == "tools"

    def test_a_single_one_is_for_tools_too(self, directory):
        model = load(directory)
        assert model.tool_template is model.template is not None

    def test_several_without_a_default(self, directory):
        edit(
            directory / "tokenizer_config.json",
            chat_template=[{"name": "tool_use", "template": "tools"}],
        )
        model = load(directory)
        assert model.template is None
        assert model.tool_template.render([]) == "tools"

    def test_files_of_several(self, directory):
        more = directory / "additional_chat_templates"
        more.mkdir()
        (more / "tool_use.jinja").write_text("tools")
        (more / "rag.jinja").write_text("{% broken")
        (directory / "chat_template.jinja").write_text("plain")
        model = load(directory)
        assert model.template.render([]) == "plain"
        assert model.tool_template.render([]) == "tools"

    def test_a_file_for_tools_alone_leaves_the_configured_default(self, directory):
        more = directory / "additional_chat_templates"
        more.mkdir()
        (more / "tool_use.jinja").write_text("tools")
        edit(directory / "tokenizer_config.json", chat_template="plain")
        model = load(directory)
        assert (model.template.render([]), model.tool_template.render([])) == ("plain", "tools")

    def test_that_of_the_processor_is_the_last_choice(self, directory):
        (directory / "chat_template.json").write_text('{"chat_template": "processor"}')
        assert load(directory).template.render(USER_SAYS_HI) != "processor"
        edit(directory / "tokenizer_config.json", chat_template=None)
        assert load(directory).template.render(USER_SAYS_HI) == "processor"

    @pytest.mark.parametrize("content", ["{", '{"chat_template": 5}'])
    def test_a_broken_one_of_the_processor_is_an_error(self, directory, content):
        (directory / "chat_template.json").write_text(content)
        edit(directory / "tokenizer_config.json", chat_template=None)
        with pytest.raises(TextModelError, match=r"chat_template\.json"):
            load(directory)

    def test_a_configured_one_is_for_tools_too(self, directory, tmp_path_factory):
        templates = [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "plain"},
        ]
        edit(directory / "tokenizer_config.json", chat_template=templates)
        override = tmp_path_factory.mktemp("t") / "mine.jinja"
        override.write_text("mine")
        assert load(directory, chat_template=str(override)).tool_template.render([]) == "mine"

    @pytest.mark.parametrize(
        "template", ["{% if %}", 5, {"a": 1}, [{"template": "x"}], ["x"], [{"name": "default"}]]
    )
    def test_a_broken_one_is_an_error(self, directory, template):
        edit(directory / "tokenizer_config.json", chat_template=template)
        with pytest.raises(TextModelError, match=r"tokenizer_config\.json"):
            load(directory)

    @pytest.mark.parametrize("token", ["<s>", {"content": "<s>", "lstrip": False}])
    def test_special_tokens_are_text_or_objects(self, directory, token):
        edit(directory / "tokenizer_config.json", chat_template="{{ bos_token }}", bos_token=token)
        assert load(directory).template.render([]) == "<s>"

    def test_special_tokens_are_kept_for_templates_of_clients(self, directory):
        edit(directory / "tokenizer_config.json", bos_token={"content": "<s>"}, unk_token=None)
        tokens = load(directory).special_tokens
        assert tokens["bos_token"] == "<s>"
        assert "unk_token" not in tokens

    def test_a_missing_special_token_is_empty(self, directory):
        edit(directory / "tokenizer_config.json", chat_template="[{{ bos_token }}]", bos_token=None)
        assert load(directory).template.render([]) == "[]"


class TestDeclaredTokens:
    """`test_special_tokens_vllm.py` compares them with transformers."""

    @pytest.fixture
    def old(self, directory):
        """An older model: its tokens are in files beside tokenizer_config.json."""
        (directory / "tokenizer_config.json").write_text('{"chat_template": "{{ eos_token }}"}')
        edit(directory / "special_tokens_map.json", eos_token={"content": "<|end|>"})
        edit(directory / "added_tokens.json", **{"<|end|>": 2048, "<|plain|>": 2049})
        return directory

    def test_they_are_in_the_map_and_among_the_added(self, old):
        model = load(old)
        assert model.template.render(USER_SAYS_HI) == "<|end|>"
        assert model.eos_id == 2048
        ids = model.tokenizer.encode("<|plain|><|end|>")
        assert ids == [2049, 2048]
        assert model.tokenizer.decode(ids) == "<|plain|>"

    def test_they_do_not_count_where_the_configuration_lists_tokens(self, old):
        edit(old / "tokenizer_config.json", added_tokens_decoder={}, eos_token="<|im_end|>")
        model = load(old)
        assert model.template.render(USER_SAYS_HI) == "<|im_end|>"
        assert len(model.tokenizer.encode("<|end|>")) > 1

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("special_tokens_map.json", "{"),
            ("added_tokens.json", "["),
            ("added_tokens.json", '{"<|x|>": "many"}'),
            ("added_tokens.json", '{"<|x|>": null}'),
            ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}'),
            ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {}}}'),
            ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
        ],
    )
    def test_broken_ones_are_an_error(self, old, name, content):
        (old / name).write_text(content)
        with pytest.raises(TextModelError, match=name):
            load(old)


GIVEN = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
}


def test_the_operators_variables_count_where_a_request_gives_none(directory, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ enable_thinking }} {{ messages[0].content }}")
    given = {"enable_thinking": False}
    text = load(directory, chat_template=str(tmp_path / "t.jinja"), chat_template_kwargs=given)
    assert text.template.render(USER_SAYS_HI) == "False Hi"
    assert text.template.render(USER_SAYS_HI, kwargs={"enable_thinking": True}) == "True Hi"


class TestDefaults:
    def test_they_come_from_generation_config(self, directory):
        edit(directory / "generation_config.json", **GIVEN, max_new_tokens=5, do_sample=True)
        defaults = load(directory).defaults
        for name, value in GIVEN.items():
            assert getattr(defaults, name) == value
        assert defaults.max_tokens == 5
        assert defaults.ignore_eos is False

    def test_null_means_not_given(self, directory):
        edit(directory / "generation_config.json", temperature=None, top_k=None)
        assert load(directory).defaults == DEFAULTS

    def test_generation_config_can_be_ignored(self, directory):
        edit(directory / "generation_config.json", **GIVEN, max_new_tokens=5)
        assert load(directory, generation_config="vllm").defaults == DEFAULTS

    @pytest.mark.parametrize(("generation_config", "top_k"), [("auto", 7), ("vllm", 0)])
    def test_the_operator_can_override_some(self, directory, generation_config, top_k):
        edit(directory / "generation_config.json", temperature=0.2, top_k=7)
        override = {"override_generation_config": {"temperature": 0.5, "max_new_tokens": 9}}
        given = {"generation_config": generation_config, "engine_args": override}
        defaults = load(directory, **given).defaults
        assert (defaults.temperature, defaults.top_k, defaults.max_tokens) == (0.5, top_k, 9)

    def test_an_override_out_of_bounds_is_an_error(self, directory):
        override = {"override_generation_config": {"temperature": -1}}
        with pytest.raises(TextModelError, match="override_generation_config"):
            load(directory, engine_args=override)

    def test_without_the_file(self, directory):
        (directory / "generation_config.json").unlink()
        assert load(directory).defaults == DEFAULTS

    @pytest.mark.parametrize("value", ["hot", -1, [1]])
    def test_a_value_out_of_bounds_is_an_error(self, directory, value):
        edit(directory / "generation_config.json", temperature=value)
        with pytest.raises(TextModelError, match=r"generation_config\.json"):
            load(directory)


class TestBadWords:
    def test_a_word_has_a_token_at_the_start_and_one_after_a_space(self, tiny):
        # Words of the training text are one token each way.
        word = next(
            text
            for text in tiny.tokenizer.library.get_vocab()
            if text.isalpha()
            and text.isascii()
            and len(text) > 2
            and tiny.tokenizer.token_to_id(f"Ġ{text}") is not None
        )
        [at_start], [after_space] = tiny.encode_bad_words([word])
        assert tiny.tokenizer.decode([at_start]) == word
        assert tiny.tokenizer.decode([after_space]) == f" {word}"
        assert tiny.encode_bad_words([f"  {word}"]) == [[at_start], [after_space]]

    def test_a_word_that_is_longer_after_a_space_is_included_once(self, built_in):
        assert built_in.encode_bad_words(["ab", "é"]) == [list(b"ab"), list("é".encode())]

    def test_spaces_alone_are_not_a_word(self, built_in):
        assert built_in.encode_bad_words([" ", ""]) == []
