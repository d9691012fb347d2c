"""The flags of `vllm serve`, as scripts have them, mean the same with `vgate serve`."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from vgate.commands.flags import settings
from vgate.commands.flags.file import taken_apart
from vgate.commands.flags.vllm import translate
from vgate.config import load
from vgate.config.models.known import PATH

ROOT = Path(__file__).parents[2]


def config(*arguments, **environ):
    """Return the configuration of `vgate serve` with some arguments."""
    found = translate(["serve", *arguments])
    return load({**found.variables, **environ})


@pytest.fixture(autouse=True)
def no_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        ("--tensor-parallel-size 2", "model.tensor_parallel_size", 2),
        ("-tp 2", "model.tensor_parallel_size", 2),
        ("-pp=3", "model.pipeline_parallel_size", 3),
        ("--tensor_parallel_size=2", "model.tensor_parallel_size", 2),
        ("--data-parallel-size 2", "model.replicas", 2),
        ("--gpu-memory-utilization 0.85", "model.gpu_memory_utilization", 0.85),
        ("--gpu-memory-utilization .85", "model.gpu_memory_utilization", 0.85),
        ("--max-model-len 8192", "model.max_model_len", 8192),
        ("--max-model-len 32_768", "model.max_model_len", 32_768),
        ("--max-model-len 8k", "model.max_model_len", 8000),
        ("--max-model-len 8K", "model.max_model_len", 8192),
        ("--max-model-len 1.5k", "model.max_model_len", 1500),
        ("--max-model-len -1", "model.max_model_len", "auto"),
        ("--max-model-len auto", "model.max_model_len", "auto"),
        ("--served-model-name a b", "model.served_model_name", ["a", "b"]),
        ("--served-model-name 7", "model.served_model_name", ["7"]),
        ("--tool-call-parser qwen3_xml", "model.tool_parser", "qwen3_coder"),
        ("--chat-template ./t.jinja", "model.chat_template", "./t.jinja"),
        (
            '--default-chat-template-kwargs {"enable_thinking":false}',
            "model.chat_template_kwargs",
            {"enable_thinking": False},
        ),
        ("--dtype half", "model.dtype", "float16"),
        ("-q awq", "model.quantization", "awq"),
        ("-q awq -q None", "model.quantization", None),
        ("--tokenizer-revision None", "model.engine_args", {}),
        ("--enable-prefix-caching", "model.prefix_caching", True),
        ("--no-enable-prefix-caching", "model.prefix_caching", False),
        ("--kv-cache-dtype fp8", "model.kv_cache_dtype", "fp8"),
        ("--kv-cache-dtype fp8_ds_mla", "model.engine_args", {"kv_cache_dtype": "fp8_ds_mla"}),
        ("--trust-remote-code", "model.trust_remote_code", True),
        ("--revision 1234567", "model.revision", "1234567"),
        ("--generation-config vllm", "model.generation_config", "vllm"),
        ("--max-num-seqs 4", "batch.max_num_seqs", 4),
        ("--api-server-count 2", "server.workers", 2),
        ('--allowed-origins ["*"]', "server.cors_allow_origins", ["*"]),
        ("--ssl-keyfile k.pem", "server.tls.key", "k.pem"),
        ("--ssl-certfile c.pem", "server.tls.certificate", "c.pem"),
        ("--ssl-ca-certs a.pem --ssl-cert-reqs 2", "server.tls.client_ca", "a.pem"),
        ("--ssl-ca-certs a.pem", "server.tls.client_ca", None),
        ("--uvicorn-log-level trace", "logging.level", "debug"),
        ("--uvicorn-log-level warning", "logging.level", "warning"),
        ("--otlp-traces-endpoint http://x:4317", "tracing.endpoint", "http://x:4317"),
        ("-O3", "model.engine_args", {"optimization_level": 3}),
        ("-O 2", "model.engine_args", {"optimization_level": 2}),
        ("-O=1", "model.engine_args", {"optimization_level": 1}),
        ("--enforce-eager", "model.engine_args", {"enforce_eager": True}),
        ("--no-enable-chunked-prefill", "model.engine_args", {"enable_chunked_prefill": False}),
        ("--max-num-batched-tokens 4K", "model.engine_args", {"max_num_batched_tokens": 4096}),
        ("--tokenizer-revision 12", "model.engine_args", {"tokenizer_revision": "12"}),
        ("--cudagraph-capture-sizes 1 2", "model.engine_args", {"cudagraph_capture_sizes": [1, 2]}),
        ('--hf-overrides {"a":{"b":1}}', "model.engine_args", {"hf_overrides": {"a": {"b": 1}}}),
        ("-ac.a=3 -ac.b.c x", "model.engine_args", {"attention_config": {"a": 3, "b": {"c": "x"}}}),
        ("--seed 1 --seed 2", "model.engine_args", {"seed": 2}),
        ("--task embedding", "model.task", "embed"),
        ("--task score", "model.task", "classify"),
        ("--runner pooling --convert embed", "model.engine_args.runner", "pooling"),
    ],
)  # fmt: skip
def test_a_flag_sets_what_it_sets_in_vllm(arguments, path, value):
    found = config(*arguments.split())
    for name in path.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value


def test_the_command_in_the_documentation_is_followed():
    page = (ROOT / "docs/configure.md").read_text(encoding="utf-8")
    command = re.search(r"^    bin/vgate (serve (?:.*\\\n)+.*)$", page, re.MULTILINE)
    assert command
    found = translate(shlex.split(command[1].replace("\\\n", "")))
    assert (found.arguments, found.notes) == (["serve", "--model", "Qwen/Qwen3-8B"], [])
    model = load(found.variables).model
    assert (model.served_names, model.max_model_len) == (["qwen", "chat"], 32_000)
    assert sorted(model.engine_args) == ["optimization_level", "seed", "speculative_config"]


def test_adapters():
    both = ["--enable-lora", "--lora-modules", "sql=/a", '{"name": "code", "path": "/b"}']
    adapters = config(*both, "--max-lora-rank", "64").model.lora_adapters
    assert [(adapter.name, adapter.path) for adapter in adapters] == [("sql", "/a"), ("code", "/b")]


def test_keys_are_required_and_have_no_other_limits():
    security = config("--api-key", "one", "two").security
    assert security.enabled
    assert [key.key for key in security.api_keys] == ["one", "two"]
    assert all(key.rate_limit == 1_000_000 for key in security.api_keys)


def test_the_model_may_follow_serve():
    assert translate(["serve", "a/b", "--port", "1"]).arguments == [
        *("serve", "--model", "a/b", "--port", "1")
    ]
    # What follows a list of values is one of them, as in vLLM.
    found = translate(["check", "a/b", "--served-model-name", "x", "y", "--dry-run"])
    assert found.arguments == ["check", "--model", "a/b", "--dry-run"]


@pytest.mark.parametrize(
    "arguments",
    [["status", "--watch"], ["keys", "add", "x"], ["--port", "1", "engine", "--seed", "1"], []],
)
def test_other_commands_have_their_own(arguments):
    assert translate(arguments) == (arguments, {}, {}, [])


@pytest.mark.parametrize(
    "flag",
    [
        "--enable-auto-tool-choice",
        *("--disable-log-requests", "--no-enable-log-requests", "--enable-reasoning"),
        *("--disable-log-stats", "--enable-prompt-tokens-details", "--no-enable-lora"),
    ],
)
def test_what_v_gate_does_anyway_is_not_told(flag):
    assert translate(["serve", flag]) == (["serve"], {}, {}, [])


def test_a_tokenizer_is_told_to_the_engine_unless_it_is_the_models_own():
    assert translate(["serve", "a/b", "--tokenizer", "a/b"]).variables == {}
    found = translate(["serve", "a/b", "--tokenizer", "/c"]).variables
    assert found == {"VGATE_MODEL__ENGINE_ARGS__TOKENIZER": '"/c"'}


def test_what_has_no_effect_is_told():
    arguments = ["--swap-space", "4", "--response-role", "x", "--reasoning-parser", "qwen3"]
    assert translate(["serve", *arguments, "--stream-interval", "4"]).notes == [
        "--swap-space has no effect here",
        "--response-role has no effect here",
        "--reasoning-parser qwen3: the format is that of the model's chat template",
        "--stream-interval has no effect here",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--uds /s", "--uds can't be followed: V-Gate listens on --host"),
        ("--middleware a.b", "put a proxy in front of it"),
        ("--headless", "`vgate join`"),
        ("--gpu-memory-utilisation 1", "did you mean --gpu-memory-utilization?"),
        ("--seed", "argument --seed: expected one argument"),
        ("--seed --port", "argument --seed: expected one argument"),
        ("--lora-modules /a", "argument --lora-modules: /a is not NAME=PATH"),
    ],
)
def test_what_can_not_be_followed_is_refused(capsys, arguments, told):
    with pytest.raises(SystemExit) as ended:
        translate(["serve", *arguments.split()])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert len(printed.splitlines()) == 1


FILE = """
model: a/b
port: 9000
served-model-name: [x, y]
tensor_parallel_size: 2
enforce-eager: true
enable-prefix-caching: false
trust-remote-code: false
disable-log-stats: false
uds: null
speculative-config: {method: ngram, num_speculative_tokens: 3}
"""


@pytest.mark.parametrize("flag", [["--config", "f.yaml"], ["--config=f.yaml"]])
def test_a_file_of_flags_counts_where_the_arguments_have_no_other(tmp_path, flag):
    (tmp_path / "f.yaml").write_text(FILE)
    found = translate(*taken_apart(["serve", *flag, "-tp", "4"]))
    assert found.arguments == ["--model", "a/b", "--port", "9000", "serve"]
    model = load(found.variables).model
    assert (model.served_names, model.tensor_parallel_size) == (["x", "y"], 4)
    assert (model.prefix_caching, model.trust_remote_code) == (False, False)
    assert model.engine_args == {
        "enforce_eager": True,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3},
    }
    named = translate(*taken_apart(["serve", "c/d", *flag]))
    assert named.arguments == [*("--model", "a/b", "--port", "9000"), "serve", "--model", "c/d"]


@pytest.mark.parametrize(
    "text", ["model: {model_id: x}", "server: {port: 1}", "port: 1\nserver: {}", "[", "", "- a"]
)
def test_another_file_is_v_gates(tmp_path, text):
    (tmp_path / "f.yaml").write_text(text)
    for arguments in (["serve", "--config", "f.yaml"], ["--config", "none"], ["--config"]):
        assert taken_apart(arguments) == (arguments, [])


def test_a_pipe_is_left_for_v_gate_to_read():
    """It can be read once, as with `--config <(sops decrypt config.yaml)`."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        pipe.write("server: {port: 1}")
    with os.fdopen(reader) as pipe:
        arguments = ["serve", "--config", f"/dev/fd/{reader}"]
        assert taken_apart(arguments) == (arguments, [])
        assert pipe.read() == "server: {port: 1}"


def test_other_commands_have_v_gates_file(tmp_path):
    (tmp_path / "f.yaml").write_text(FILE)
    arguments = ["status", "--config", "f.yaml"]
    assert taken_apart(arguments) == (arguments, [])


def test_each_flag_of_vllm_is_a_setting_or_told_or_refused():
    """No flag is lost in silence, but for those of which V-Gate does the same anyway."""
    values = {"text": ["x"], "texts": ["x=y"], "json": ["1"], "jsons": ["1"]}
    facts = json.loads(PATH.read_bytes())
    for flag, takes in facts["flags"].items():
        kind, argument = takes.split()
        if flag in {"--model", "--host", "--port"} or argument in settings.REFUSED:
            continue
        found = translate(["serve", flag, *values.get(kind, [])])
        lost = not found.variables and not found.notes and kind != "false"
        assert not lost or argument in settings.ALWAYS, flag


def test_the_table_names_arguments_of_vllm():
    facts = json.loads(PATH.read_bytes())
    known = {takes.split()[1] for takes in facts["flags"].values()}
    former = {takes.split()[1] for takes in settings.FORMER.values()}
    named = {*settings.SAME, *settings.ALWAYS, *settings.FOUND, *settings.REFUSED}
    assert named - known - former == set()
    assert not settings.FORMER.keys() & facts["flags"].keys()
