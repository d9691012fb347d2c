"""Special tokens, added tokens and templates of a model's files: the same as in transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.conftest import load
from tests.vllm_programs import OFFLINE, PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]

END, TURN, START = "<|endoftext|>", "<|im_end|>", "<|im_start|>"
TEXTS = [f"{START}user\nHi<|new|>{TURN} <|other|> a</s>{END}[PAD]", "<|plain|> text <|new|>x"]
FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)


def token(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, **FLAGS, **flags}


NAMED = {"bos_token": START, "eos_token": TURN, "pad_token": token("[PAD]"), "unk_token": END}
OTHERS = {
    "bos_token": END,
    "cls_token": "<|other|>",
    "eos_token": {"__type": "AddedToken", **token(END)},
}
PLAIN = {**NAMED, "pad_token": "[PAD]"}
LISTED = {"2048": token("<|new|>", special=True), "2049": token("<|plain|>", special=False)}
TEMPLATE, TOOL_TEMPLATE = "chat_template.jinja", "additional_chat_templates/tool_use.jinja"
LIST = [{"name": "default", "template": "listed"}, {"name": "tool_use", "template": "tools"}]

# By name: the files of each case, JSON if they are no text. None stands for the file of the tiny
# model, without which there is none.
CASES: dict[str, dict[str, Any]] = {
    "as it is": {"tokenizer_config.json": None},
    "nothing": {},
    "only the map": {"special_tokens_map.json": NAMED},
    "the map wins": {"tokenizer_config.json": OTHERS, "special_tokens_map.json": NAMED},
    "unless tokens are listed": {
        "tokenizer_config.json": {**OTHERS, "added_tokens_decoder": LISTED},
        "special_tokens_map.json": NAMED,
        "added_tokens.json": {"<|other|>": 2050},
    },
    "null in the map": {
        "tokenizer_config.json": PLAIN,
        "special_tokens_map.json": {"bos_token": None},
    },
    "more special tokens": {
        "special_tokens_map.json": {
            **NAMED,
            "additional_special_tokens": ["<|new|>", "<|other|>"],
        },
    },
    "more in the configuration": {
        "tokenizer_config.json": {**PLAIN, "additional_special_tokens": ["<|new|>", TURN]},
    },
    "added tokens": {
        "special_tokens_map.json": {**NAMED, "eos_token": "<|new|>"},
        "added_tokens.json": {"<|plain|>": 2049, "<|new|>": 2048},
    },
    "added tokens with known ids": {
        "tokenizer_config.json": PLAIN,
        "added_tokens.json": {END: 2045, "<|new|>": 2048},
    },
    "a special token that is listed as an ordinary one": {
        "tokenizer_config.json": {
            "eos_token": "<|plain|>",
            "added_tokens_decoder": {**LISTED, "2047": token(TURN, special=False)},
        },
    },
    "listed templates": {"tokenizer_config.json": {**PLAIN, "chat_template": LIST}},
    "template files": {
        "tokenizer_config.json": {**PLAIN, "chat_template": LIST},
        TEMPLATE: "file",
        TOOL_TEMPLATE: "file for tools",
    },
    "one template file": {
        "tokenizer_config.json": {**PLAIN, "chat_template": LIST},
        TEMPLATE: "file",
    },
}


def make(directory: Path, tiny: Path, files: dict[str, Any]) -> Path:
    directory.mkdir()
    shutil.copy(tiny / "tokenizer.json", directory)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            shutil.copy(tiny / name, path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


@pytest.fixture(scope="module")
def directories(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("tokens")
    return [
        make(root / str(number), tiny_model_dir, files)
        for number, files in enumerate(CASES.values())
    ]


@pytest.fixture(scope="module")
def reference(
    directories: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("transformers") / "report.json"
    arguments = (str(path), json.dumps(TEXTS), *map(str, directories))
    run_program("tests.frontend.text.transformers_program", *arguments, **OFFLINE)
    return dict(zip(CASES, json.loads(path.read_bytes()), strict=True))


@pytest.mark.parametrize("number", range(len(CASES)), ids=list(CASES))
def test_it_is_as_in_transformers(
    number: int, directories: list[Path], reference: dict[str, dict[str, Any]]
) -> None:
    expected, text = reference[[*CASES][number]], load(directories[number])
    assert text.special_tokens == expected["named"]
    assert text.eos_id == expected["eos_id"]
    ids = [text.tokenizer.encode(one) for one in TEXTS]
    assert ids == expected["ids"]
    assert [text.tokenizer.decode(one) for one in ids] == expected["decoded"]
    templates = {"default": text.template, "tool_use": text.tool_template}
    sources = {name: found.source for name, found in templates.items() if found}
    default = expected["templates"]["default"]
    assert sources == ({} if default is None else {"tool_use": default, **expected["templates"]})
