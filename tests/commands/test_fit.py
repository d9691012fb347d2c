"""`vgate fit`: what it prints, its JSON and its exit status."""

import json
import re
import stat

import pytest

from tests.fit.checkpoints import write_checkpoint
from tests.fit.published import MODELS
from vgate.fit.gpu import GIB
from vgate.launcher.cli import main

AWQ, LLAMA = "Qwen2.5-7B-AWQ", "Llama-3.1-8B"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    for name in (AWQ, LLAMA, "Gemma-3-1b", "Qwen3.6-35B-A3B"):
        write_checkpoint(directory / name, MODELS[name], empty=True)
    return directory


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No GPU and no configuration but the defaults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VGATE_CONFIG_PATH", raising=False)


@pytest.fixture
def fit(models, capsys):
    def run(name, *arguments):
        status = main(["fit", str(models / name) if name in MODELS else name, *arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture
def document(fit):
    def run(name, *arguments):
        status, out, err = fit(name, *arguments, "--json")
        assert err == ""
        found = json.loads(out)
        assert found["fits"] is (status == 0)
        return found

    return run


def shown(tmp_path, *lines):
    """Put an nvidia-smi on the path that answers with these lines."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    printed = "".join(f"echo '{line}'\n" for line in lines)
    program.write_text(f"#!/bin/sh\n{printed}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_table_says_what_fits(fit):
    status, out, _ = fit(LLAMA, "--vram", "24GiB", "--utilization", "0.9")
    assert status == 0
    assert "on 23.52 GiB, of which vLLM may use 90%" in out
    for part in ("weights", "activations", "CUDA graphs", "driver", "KV cache"):
        assert f"\n{part}" in out
    assert "128 KiB a token in bfloat16" in out
    assert "context  answers at once" in out
    assert "\n  2,048" in out


def test_what_does_not_fit_is_said_with_what_would_help(fit):
    status, out, _ = fit(AWQ, "--vram", "8GiB", "--utilization", "0.7")
    assert status == 1
    assert "It does not fit: " in out
    assert "model.gpu_memory_utilization: 0.9 -> " in out
    assert "all of that together -> " in out


def test_settings_that_help_are_right(document):
    """What is advised fits as much as it was said to."""
    few = document(LLAMA, "--vram", "24", "--utilization", "0.8")
    changes = {change["what"].split(":")[0]: change["longest"] for change in few["changes"]}
    more = document(LLAMA, "--vram", "24", "--utilization", "0.9")
    assert changes["more of the card"] == more["max_context"] > few["max_context"]
    small = document(LLAMA, "--vram", "24", "--utilization", "0.8", "--kv-dtype", "fp8")
    said = next(longest for what, longest in changes.items() if what.startswith("a KV cache of 8"))
    assert said == small["max_context"]


@pytest.mark.parametrize("concurrency", [1, 3, 8, 20])
def test_the_context_for_so_many_answers_is_the_longest(document, concurrency):
    where = ("--vram", "24GiB", "--utilization", "0.9", "--concurrency", str(concurrency))
    longest = document(LLAMA, *where)["max_context"]
    assert 0 < longest < 131_072
    assert document(LLAMA, *where, "--context", str(longest))["fits"]
    assert not document(LLAMA, *where, "--context", str(longest + 17))["fits"]


def test_a_small_model_has_its_own_context(fit):
    _, out, _ = fit("Gemma-3-1b", "--vram", "24GiB", "--concurrency", "4")
    assert "4 answers at once: up to 32,768 tokens of context each (the model's own)." in out
    assert "less in layers with a window" in out


def test_a_context_beyond_the_models_own_fits_no_answer(fit, document):
    where = (LLAMA, "--vram", "141GiB", "--context")
    status, out, _ = fit(*where, "131073")
    assert status == 1
    assert "The model's own context is 131,072 tokens: no answer has more." in out
    assert "Settings for it" not in out
    assert not document(*where, "131073")["fits"]
    assert document(*where, "131072")["fits"]


def test_a_context_that_vllm_derives_may_be_longer(tmp_path, document):
    named = {"max_position_embeddings": 32768}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    unnamed = dict(MODELS[LLAMA])
    for name in ("max_position_embeddings", "rope_scaling", "rope_parameters"):
        unnamed.pop(name, None)
    for number, (fields, fits) in enumerate(
        [
            (named, False),
            ({**named, "rope_parameters": {"rope_type": "default"}}, False),
            ({**named, "rope_parameters": yarn}, True),
            ({**named, "rope_scaling": yarn}, True),
            ({}, True),  # as with ALiBi
        ]
    ):
        path = tmp_path / str(number)
        write_checkpoint(path, {**unnamed, **fields}, empty=True)
        assert document(str(path), "--vram", "141GiB", "--context", "131072")["fits"] == fits


def test_settings_to_serve_with_are_told(fit):
    _, out, _ = fit(LLAMA, "--vram", "24GiB", "--utilization", "0.9", "--concurrency", "4")
    told = re.search(
        r"model.max_model_len: (\d+), batch.max_num_seqs: 4,.*_utilization: 0.9\n", out
    )
    assert told
    assert f"up to {int(told[1]):,} tokens of context each." in out


def test_states_are_told(fit):
    _, out, _ = fit("Qwen3.6-35B-A3B", "--vram", "141GiB", "--context", "4096")
    assert "and a state for each answer" in out


def test_room_for_a_context(fit):
    status, out, _ = fit(LLAMA, "--vram", "24GiB", "--utilization", "0.9", "--context", "8192")
    assert status == 0
    assert "Room for 4 answers of 8,192 tokens at once (4." in out


def test_too_much_is_said_with_numbers(fit):
    wanted = ("--context", "16384", "--concurrency", "8")
    status, out, _ = fit(LLAMA, "--vram", "24GiB", "--utilization", "0.9", *wanted)
    assert status == 1
    assert "8 answers of 16,384 tokens would take 16.00 GiB of KV cache." in out


def test_the_json_has_all_figures(document):
    found = document(AWQ, "--vram", "12GiB", "--utilization", "0.9")
    assert found["weight_bytes"] == pytest.approx(5.2 * GIB, rel=0.01)
    assert found["kv_bytes_per_token"] == 56 * 1024
    assert found["kv_memory"] == int(0.98 * 12 * GIB * 0.9) - found["weight_bytes"] - sum(
        found["overhead"].values()
    )
    assert found["dtype"] == "float16"
    assert found["weights"]["by_dtype"]["I32"] > 3 * GIB


def test_weights_are_made_small_on_load(document):
    plain = document(LLAMA, "--vram", "24GiB")
    four = document(LLAMA, "--vram", "24GiB", "--quantization", "bitsandbytes")
    eight = document(LLAMA, "--vram", "24GiB", "--quantization", "fp8")
    # Embedding and last layer, 1.96 GiB, stay.
    assert four["weight_bytes"] / GIB == pytest.approx(1.96 + 13 * 0.258, abs=0.1)
    assert eight["weight_bytes"] / GIB == pytest.approx(1.96 + 13 / 2, abs=0.1)
    assert plain["weight_bytes"] / GIB == pytest.approx(14.99, abs=0.01)


def test_the_card_of_the_machine_is_taken(fit, document, tmp_path):
    shown(tmp_path, "NVIDIA GeForce RTX 3060, 12288, 11900, 8.6", "Other, 1, 1, 9.0")
    _, out, _ = fit(AWQ)
    assert "on NVIDIA GeForce RTX 3060, 12.00 GiB, of which vLLM may use 92%" in out
    assert "8 bits" not in out  # Ampere has no 8 bit floats
    assert document(AWQ)["card"]["total"] == 12 * GIB


def test_a_card_in_use_is_told(fit, tmp_path):
    shown(tmp_path, "NVIDIA GeForce RTX 4060, 8188, 5000, 8.9")
    _, out, _ = fit(AWQ, "--utilization", "0.9")
    assert "Other programs use the card: 4.88 GiB are free" in out
    assert "lower model.gpu_memory_utilization to 0.54." in out


def test_of_a_card_in_use_auto_is_what_is_free(fit, tmp_path):
    shown(tmp_path, "NVIDIA GeForce RTX 4060, 8188, 5000, 8.9")
    _, out, _ = fit(AWQ)
    assert "of which vLLM may use 54%" in out
    assert "Other programs" not in out


@pytest.mark.parametrize("line", ["[N/A], [N/A], [N/A], [N/A]", "GB10, [N/A], [N/A], 12.1", ""])
def test_a_gpu_that_tells_nothing_is_none(fit, tmp_path, line):
    shown(tmp_path, line)
    status, _, err = fit(AWQ)
    assert status == 2
    assert "name the memory of one, as in --vram 8GiB" in err


@pytest.mark.parametrize(
    ("size", "total"),
    [
        ("8GiB", 8 * GIB),
        ("8", 8 * GIB),
        ("8GB", 8 * GIB),
        ("8192MiB", 8 * GIB),
        ("1.5g", 1.5 * GIB),
    ],
)
def test_sizes_of_cards(document, size, total):
    assert document(AWQ, "--vram", size)["card"]["total"] == int(total * 0.98)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vram", "9" * 400), "is more than any GPU has"),
        (("--vram", "much"), "'much' is no size; write such as 8GiB"),
        (("--vram", "8", "--concurrency", "0"), "'0' is no positive whole number"),
        (("--vram", "8", "--context", "x"), "'x' is no positive whole number"),
        (("--vram", "8", "--utilization", "2"), "'2' is not between 0 and 1"),
        (("--vram", "8", "--kv-dtype", "int3"), "invalid choice"),
    ],
)
def test_wrong_arguments(fit, capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        fit(AWQ, *arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acme/absent", "acme/absent: it is not in"),
        (f"acme/{'x' * 300}", "there is no directory acme/xxx"),
        ("https://huggingface.co/acme/x", "is an address: set it to acme/x"),
        ("llama3:8b", "did you mean llama3.1:8b"),
        ("acme/x-GGUF/q4.gguf", "has GGUF files"),
    ],
)
def test_what_is_no_model(fit, name, said):
    status, _, err = fit(name, "--vram", "8")
    assert status == 1
    assert said in err
    assert "Traceback" not in err


def test_an_unknown_architecture_is_told(fit, tmp_path):
    config = {**MODELS[LLAMA], "layer_types": ["wonder"] * 32}
    write_checkpoint(tmp_path / "new", config, empty=True)
    status, _, err = fit(str(tmp_path / "new"), "--vram", "8")
    assert status == 1
    assert "layers of the type 'wonder' can't be computed yet" in err


@pytest.mark.parametrize("missing", ["hidden_size", "num_attention_heads", "num_hidden_layers"])
def test_a_configuration_without_sizes_is_told(fit, tmp_path, missing):
    write_checkpoint(tmp_path / "model", MODELS[LLAMA], empty=True)
    config = {key: value for key, value in MODELS[LLAMA].items() if key != missing}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    status, _, err = fit(str(tmp_path / "model"), "--vram", "8")
    assert status == 1
    assert missing in err
    assert "Traceback" not in err


def test_a_model_that_keeps_nothing_for_a_token(fit, document, tmp_path):
    config = {**MODELS["Gemma-3-1b"], "layer_types": ["-"] * 26}
    write_checkpoint(tmp_path / "model", config, empty=True)
    where = (str(tmp_path / "model"), "--vram", "8", "--context", "1000")
    assert "Room for 256 answers of 1,000 tokens" in fit(*where)[1]
    assert document(*where)["max_concurrency"] == 256
