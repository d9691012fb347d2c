"""The tiny model's files, checked without an engine."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.tiny_model import make_tiny_model
from tests.tiny_model.corpus import training_texts
from tests.tiny_model.rendering import plain_environment, read_template
from tests.tiny_model.samples import CONVERSATIONS, TEXTS, mixed_texts

REPOSITORY = Path(__file__).resolve().parents[2]
SPECIAL_IDS = {"<|endoftext|>": 2045, "<|im_start|>": 2046, "<|im_end|>": 2047}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header, content[8 + length :]


def test_two_models_are_equal(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "new" / "model")
    names = sorted(path.name for path in tiny_model_dir.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in names:
        assert (other / name).read_bytes() == (tiny_model_dir / name).read_bytes(), name


def test_same_on_every_python(tiny_model_dir: Path, tokenizer: Tokenizer) -> None:
    """Pins what must not depend on the interpreter; a deliberate change updates the numbers."""
    text = hashlib.sha256("".join(training_texts()).encode()).hexdigest()
    weights = hashlib.sha256((tiny_model_dir / "model.safetensors").read_bytes()).hexdigest()
    assert text[:16] == "4af5975b43427775"
    assert weights[:16] == "44141692e636c6f3"
    assert tokenizer.encode("Hello! What is zebra? 日本😀").ids == [
        1528,
        0,
        1824,
        475,
        477,
        68,
        65,
        308,
        30,
        220,
        162,
        245,
        98,
        162,
        250,
        105,
        1751,
    ]


def test_tokenizer_only_needs_no_array_library(tmp_path: Path) -> None:
    script = (
        "import sys; from tests.tiny_model.__main__ import main; main();"
        "assert not {'numpy', 'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), "--tokenizer-only"]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "tokenizer.json").exists()


def test_special_tokens(tiny_model_dir: Path, tokenizer: Tokenizer) -> None:
    config = read_json(tiny_model_dir / "config.json")
    assert tokenizer.get_vocab_size() == config["vocab_size"] == 2048
    for token, token_id in SPECIAL_IDS.items():
        assert tokenizer.encode(f"a{token}b").ids[1] == token_id
        assert tokenizer.decode([token_id]) == ""
        assert tokenizer.decode([token_id], skip_special_tokens=False) == token


def test_generation_config_has_both_eos_ids_and_no_sampling(tiny_model_dir: Path) -> None:
    config = read_json(tiny_model_dir / "generation_config.json")
    assert config["eos_token_id"] == [SPECIAL_IDS["<|im_end|>"], SPECIAL_IDS["<|endoftext|>"]]
    assert {key for key in config if not key.endswith("_token_id")} == set()


@pytest.mark.parametrize("text", [*TEXTS, *mixed_texts(20)])
def test_every_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    # NFC does not reach across a special token, hence normalizing both sides.
    assert unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)


def test_words_are_single_tokens_and_some_tokens_are_parts_of_characters(
    tokenizer: Tokenizer,
) -> None:
    assert tokenizer.encode("Hello! What is the capital").tokens == [
        *("Hello", "!", "ĠWhat", "Ġis", "Ġthe", "Ġcapital")
    ]
    decoded = [tokenizer.decode([token_id]) for token_id in range(SPECIAL_IDS["<|endoftext|>"])]
    unfinished = sum("\ufffd" in text for text in decoded)
    multi_byte = sum(text.isprintable() and not text.isascii() for text in decoded) - unfinished
    assert unfinished > 200
    assert multi_byte > 100


def test_weights_match_the_configuration(tiny_model_dir: Path) -> None:
    header, data = read_safetensors(tiny_model_dir / "model.safetensors")
    assert header.pop("__metadata__") == {"format": "pt"}
    end = 0
    for name, tensor in header.items():
        start, stop = tensor["data_offsets"]
        assert start == end, name
        assert stop - start == 2 * math.prod(tensor["shape"]), name
        end = stop
    assert end == len(data)
    assert header["model.embed_tokens.weight"]["shape"] == [2048, 64]
    assert header["model.layers.1.self_attn.k_proj.weight"]["shape"] == [32, 64]


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("model.embed_tokens.weight", 1.0),
        ("lm_head.weight", 0.125),
        ("model.layers.0.self_attn.q_proj.weight", 0.25),
        ("model.layers.1.mlp.down_proj.weight", 0.125),
    ],
)
def test_weights_have_the_wanted_spread(tiny_model_dir: Path, name: str, std: float) -> None:
    header, data = read_safetensors(tiny_model_dir / "model.safetensors")
    start, stop = header[name]["data_offsets"]
    # A bfloat16 is the upper half of a float32.
    halves = struct.unpack(f"<{(stop - start) // 2}H", data[start:stop])
    values = [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    mean = math.fsum(values) / len(values)
    assert abs(mean) < 0.05 * std
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    assert math.sqrt(variance) == pytest.approx(std, rel=0.05)


def test_template_adds_the_default_system_prompt(tiny_model_dir: Path) -> None:
    template = plain_environment().from_string(read_template(tiny_model_dir))
    messages = [{"role": "user", "content": "Hi"}]
    assert template.render(messages=messages, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_template_renders_tools_calls_and_results(tiny_model_dir: Path) -> None:
    template = plain_environment().from_string(read_template(tiny_model_dir))
    rendered = template.render(CONVERSATIONS[-1])
    assert '<tools>\n{"type": "function", "function": {"name": "get_weather"' in rendered
    assert rendered.endswith(
        "<|im_start|>user\nWeather in Paris and Zürich?<|im_end|>\n"
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n"
        "<tool_response>\n21\n</tool_response>\n"
        "<tool_response>\n19\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n21 and 19.<|im_end|>\n"
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_template_does_not_depend_on_whitespace_options(
    tiny_model_dir: Path, conversation: dict[str, Any]
) -> None:
    source = read_template(tiny_model_dir)
    trimmed = plain_environment(trim=True).from_string(source).render(conversation)
    untrimmed = plain_environment(trim=False).from_string(source).render(conversation)
    assert trimmed == untrimmed
