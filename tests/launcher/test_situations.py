"""What people meet before anything is started: each situation with what they are told.

`bin/vgate` looks like this before it installs an engine, the launcher before it starts one, and
`vgate check` says the same.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tiny_model import make_tiny_adapter
from vgate.launcher.cli import main
from vgate.launcher.run_dir import RunDir

OK, FAILED, USAGE = 0, 1, 2
DRY = ("--dry-run",)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """An empty directory, and no setting but a free port and a short run directory."""
    for name in [*os.environ]:
        if name.startswith(("VGATE_", "HF_", "HUGGINGFACE")):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["VGATE_SERVER__PORT"] = str(probe.getsockname()[1])
    os.environ["VGATE_SERVER__RUN_DIR"] = str(tmp_path / "run")
    yield monkeypatch
    for name in set(os.environ) - set(before):
        del os.environ[name]


class Told(NamedTuple):
    status: int | str | None
    out: str
    err: str


Tell = Callable[..., Told]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Look whether it would start, in this directory; nothing is made in it."""

    def tell(*arguments: str, **variables: str) -> Told:
        os.environ.update({f"VGATE_{name.upper()}": text for name, text in variables.items()})
        before = sorted(Path().rglob("*"))
        try:
            status: int | str | None = main([*arguments], only_look=True)
        except SystemExit as ended:
            status = ended.code
        assert sorted(Path().rglob("*")) == before
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert all(line.startswith("vgate: ") for line in err.splitlines())
        return Told(status, out, err)

    return tell


def assert_told(told: Told, status: int, *words: str, lines: int = 1) -> None:
    assert [word for word in words if word not in told.err + told.out] == [], told
    assert told.status == status
    assert len(told.err.splitlines()) == lines, told.err


def write(text: str) -> None:
    Path("config.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["chekc"], USAGE, ["there is no command `chekc`; did you mean `vgate check`?"]),
        (["start"], USAGE, ["there is no command `start`; did you mean `vgate serve`?"]),
        (["zzyzx"], USAGE, ["the commands are serve, engine, "]),
        (["./model"], USAGE, ["to serve a model: vgate --model ./model"]),
        (["--prot", "1"], USAGE, ["there is no flag --prot; did you mean --port?"]),
        (["--dryrun"], USAGE, ["there is no flag --dryrun; did you mean --dry-run?"]),
        (["--port"], USAGE, ["argument --port: expected one argument"]),
        (["serve", "now", "please"], USAGE, ["`please` is one argument too many"]),
        (["keys"], USAGE, ["an action is missing; choose one of: add, set, list"]),
        (["engines", "list", "--url", "x", "--porr", "1"], USAGE, ["did you mean --port?"]),
        (["bench", "--sweep", "a"], USAGE, ["argument --sweep: invalid counts value: 'a'"]),
        (["keys", "ad", "x"], USAGE, ["invalid choice: 'ad'"]),
        (["--port", "many"], USAGE, ['`server.port` must be an integer, got "many" (from --port)']),
        (["--port", "0"], USAGE, ["`server.port` must be an integer >= 1, got 0"]),
        (["--port", "70000"], USAGE, ["`server.port` must be an integer <= 65535, got 70000"]),
        (["--model", ""], USAGE, ["`model.model_id` must be a string of length >= 1"]),
        (["--config", "no.yaml"], USAGE, ["configuration no.yaml: No such file or directory"]),
        (["--config", "."], USAGE, ["cannot read the configuration .: Is a directory"]),
    ],
)
def test_arguments(tell: Tell, arguments: list[str], status: int, words: list[str]) -> None:
    assert_told(tell(*arguments), status, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("servr: {}", ["`servr` is not a known field; did you mean `server`?", "line 1)"]),
        ("\nserver:\n  prot: 1", ["did you mean `port`? (from config.yaml, line 3)"]),
        ("server: {workers: '2'}", ['`server.workers` must be an integer, got "2"']),
        ("batch: {max_batch_size: 0}", ["`batch.max_batch_size` must be an integer >= 1, got 0"]),
        ("logging: {level: warn}", ["'warning'", "got \"warn\"; did you mean 'warning'?"]),
        ("model: {dtype: fp16}", ["must be 'auto' or", "'float16'", 'got "fp16"']),
        ("additional_models: [{dtype: auto}]", ["`additional_models[0].model_id` is required"]),
        ("server:\n\tport: 1", ["not valid YAML, line 2, column 1", "with spaces, not with tabs"]),
        ("model: {model_id: a: b}", ["not valid YAML, line 1"]),
        ("model:\n  model_id: a: b", ["line 2, column 14", "with a colon in it needs quotes"]),
        ("server: {port: 1", ["not valid YAML, line 1"]),
        ("server: {port: 1, port: 2}", ["`port` in line 1 and again in line 1", "make them one"]),
        ("- server", ["config.yaml must hold a map of sections, not a list"]),
        ("\x00", ["not valid YAML"]),
        ("model: {enforce_eager: true}", ["any more; use `model.engine_args: {enforce_eager"]),
        ("model: {lora_adapters: [{name: a, path: p}, {name: a, path: q}]}", ["`a` is used twice"]),
    ],
)
def test_a_configuration_that_is_wrong(tell: Tell, text: str, words: list[str]) -> None:
    write(text)
    assert_told(tell(*DRY), USAGE, *words)
    assert_told(tell("check", *DRY), USAGE, *words)


def test_everything_that_is_wrong_at_once(tell: Tell) -> None:
    write("server: {prot: 1, http2: maybe}\nlogging: {level: inof}\nbatch: {max_queue_size: -1}\n")
    assert_told(tell(*DRY, cache__enabled="perhaps"), USAGE, "VGATE_CACHE__ENABLED", lines=5)


def test_all_that_a_valid_configuration_still_lacks(tell: Tell) -> None:
    write("security: {enabled: true}\nserver: {tls: {certificate: no.pem}}\nmodel: {model_id: /no}")
    Path("run").touch()
    told = tell(model__engine_args='{"sed": 1}')
    for words in ("there are no keys", "tls.key is missing", "no directory /no", "run directory"):
        assert words in told.err
    assert_told(told, USAGE, "model.engine_args.sed: vLLM has no such argument; did", lines=5)


def test_where_the_log_is_json_so_is_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    write("logging: {json_format: true}\nmodel: {model_id: /no}")
    assert main([], only_look=True) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["problem"] == "model.model_id: there is no directory /no"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"server__port": "many"}, ["`server.port` must be an integer", "VGATE_SERVER__PORT"]),
        ({"cache__enabled": "maybe"}, ["`cache.enabled` must be true or false"]),
        ({"model__engine_args": "{"}, ["VGATE_MODEL__ENGINE_ARGS must be JSON"]),
        ({"model": "Qwen/Qwen3-8B"}, ["`model` must be an object", "(from VGATE_MODEL)"]),
        ({"config_path": "no.yaml"}, ["cannot read the configuration no.yaml"]),
        ({"dry_run__script": "no.yaml"}, ["dry_run.script: cannot read no.yaml: No such file"]),
    ],
)
def test_variables_that_are_wrong(tell: Tell, variables: dict[str, str], words: list[str]) -> None:
    assert_told(tell(*DRY, **variables), USAGE, *words)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("port", "did you mean VGATE_SERVER__PORT?"),
        ("server_host", "did you mean VGATE_SERVER__HOST?"),
        ("dryrun", "did you mean VGATE_DRY_RUN?"),
        ("model__enforce_eager", "use `model.engine_args: {enforce_eager: true}`"),
    ],
)
def test_a_variable_that_is_nobodys_is_told_and_ignored(
    tell: Tell, variable: str, hint: str
) -> None:
    told = tell("check", *DRY, **{variable: "1"})
    name = f"VGATE_{variable.upper()}"
    assert_told(told, OK, f"{name} is not a setting and is ignored; {hint}", "is valid")


def test_what_kubernetes_and_the_commands_set_is_not_told(tell: Tell) -> None:
    told = tell(
        *("check", *DRY),
        port="tcp://10.3.240.1:8000",
        service_host="10.3.240.1",
        service_port="8000",
        port_8000_tcp="tcp://10.3.240.1:8000",
        port_8000_tcp_addr="10.3.240.1",
        api_key="sk-1",
        url="http://box",
    )
    assert_told(told, OK, "is valid", lines=0)


@pytest.mark.parametrize("command", [(), ("check",)])
def test_a_port_that_is_taken(tell: Tell, command: tuple[str, ...]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = tell(*command, *DRY, "--port", str(port))
        words = "Address already in use; stop the program that has the port, or set server.port"
        assert_told(told, FAILED, f"cannot listen on 127.0.0.1:{port}: {words}")


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "not a host"])
def test_a_host_that_is_not_ours(tell: Tell, host: str) -> None:
    told = tell(*DRY, "--host", host)
    assert_told(told, FAILED, f"cannot listen on {host}:", "set server.host (--host) to an address")


def test_a_port_for_root(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert_told(tell(*DRY, "--port", "80"), FAILED, ":80: Permission denied; ports below 1024 are")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enabled: true", ["there are no keys", "`vgate keys add NAME`"]),
        (
            "enabled: true, key_file: k",
            ["there is no file", "/k,", "`vgate keys add"],
        ),
        ("enabled: true, key_file: broken", ["broken", "line 2", "not a JSON object"]),
        ("enabled: true, key_file: .", ["Is a directory"]),
        ("enabled: true, api_keys: [{key: käse, name: x}]", ["no client can send this key"]),
        ("enabled: true, api_keys: [{name: x}]", ["give either `key` or `key_sha256`"]),
        ("api_keys: [{key: aa, name: x}, {key: bb, name: x}]", ["the name `x` is used twice"]),
        ("api_keys: [sk-secret]", ["`security.api_keys[0]` must be an object"]),
    ],
)
def test_keys(tell: Tell, text: str, words: list[str]) -> None:
    Path("broken").write_text("# keys\n{'name': 1}\n")
    write(f"security: {{{text}}}")
    told = tell("check", *DRY)
    assert_told(told, USAGE, *words)
    assert "sk-secret" not in told.err


def test_a_key_for_vllms_server_that_no_client_can_send(
    tell: Tell, environment: pytest.MonkeyPatch
) -> None:
    """Nobody has configured keys, so only its name says where it comes from."""
    environment.setenv("VLLM_API_KEY", "sk-secret\n")
    told = tell("check", *DRY)
    assert_told(told, USAGE, "VLLM_API_KEY", "no client can send this key")
    assert "sk-secret" not in told.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("certificate: c.pem", ["server.tls.key is missing: give both"]),
        ("certificate: c.pem, key: no.pem", ["server.tls.key: cannot read", "No such file"]),
        ("certificate: c.pem, key: c.pem", ["must have a certificate and", "in PEM"]),
    ],
)
def test_certificates(tell: Tell, text: str, words: list[str]) -> None:
    Path("c.pem").write_text("no certificate")
    write(f"server: {{tls: {{{text}}}}}")
    assert_told(tell(*DRY), USAGE, *words)


@pytest.mark.parametrize("command", [(), ("check",)])
def test_more_replicas_than_gpus(
    tell: Tell, model: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    write(f"model: {{model_id: {model}, replicas: 3, tensor_parallel_size: 2}}")
    told = tell(*command)
    numbers = ("model.replicas: 3 replicas of 2 GPUs", "need 6 GPUs", "this machine's 4 are free")
    assert_told(told, USAGE, *numbers, "set model.replicas to 2")


class TestRunDirectory:
    def test_a_file_is_in_its_place(self, tell):
        Path("run").touch()
        assert_told(tell(*DRY), FAILED, "/run is not a directory of this user; set server.run_dir")

    def test_its_parent_is_a_file(self, tell):
        Path("file").touch()
        told = tell(*DRY, server__run_dir="file/run")
        assert_told(told, FAILED, "cannot make the run directory", "Not a directory", "set server")

    def test_a_system_directory(self, tell):
        told = tell(*DRY, server__run_dir="/proc/vgate")
        if os.access("/proc", os.W_OK):
            pytest.skip("this user may write everywhere")
        assert_told(told, FAILED, "cannot make the run directory /proc/vgate: Permission denied")

    def test_its_path_is_too_long(self, tell):
        told = tell(*DRY, server__run_dir="x" * 120)
        assert_told(told, FAILED, "sockets longer than 107 bytes; set server.run_dir to a shorter")

    def test_others_use_it(self, tell):
        Path("run/limits").mkdir(parents=True)
        assert_told(tell(*DRY), FAILED, "V-Gate did not make", "/run/limits; move it away, or set")

    def test_nothing_that_outlives_it_can_be_kept(self, tell):
        Path("taken").touch()
        told = tell("check", *DRY, server__state_dir="taken/state")
        assert_told(told, OK, "# usage, logs,", "taken/state; set server.state_dir", lines=0)

    def test_an_instance_runs(self, tell):
        held = RunDir("run")
        told = tell("check", *DRY)
        assert_told(
            told, OK, "An instance runs in", "`vgate reload` has it take this over", lines=0
        )
        held.remove()
        assert not Path("run").exists()


@pytest.fixture
def model(tiny_model_dir: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(tiny_model_dir, Path("model"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/where", ["there is no directory /no/where"]),
        ("./modell", ["there is no directory ./modell"]),
        ("folder/qwen/x", ["there is no directory folder/qwen/x"]),
        ("folder/lama/", ["there is no directory folder/lama/; folder has folder/llama"]),
        ("LEADING", ["there is no directory", "; did you mean /"]),
        ("https://huggingface.co/Qwen/Qwen3-8B", ["is an address: set it to Qwen/Qwen3-8B"]),
        ("hf.co/Qwen/Qwen3-8B/tree/main", ["is an address: set it to Qwen/Qwen3-8B"]),
        ("s3://bucket/model", ["is an address: name a directory with the model, or its name on"]),
        ("zephyr:7b", ["is none of the short names of `vgate models catalogue`, and Ollama's"]),
        ("qwen3:7b", ["can't be served: take the model from", "did you mean qwen3:0.6b or"]),
        ("ollama://library/qwen3:8b", ["is an address"]),
        (
            "unsloth/Qwen3-8B-GGUF",
            ["can't be served from the Hub: take", "AWQ, GPTQ or"],
        ),
        ("unsloth/Qwen3-8B-GGUF:Q4_K_M", ["has GGUF files, which can't be served from the Hub"]),
        ("no/model.gguf", ["has GGUF files, which can't be served from the Hub"]),
        (
            "file.gguf",
            ["is a file, and GGUF files can't be served alone: take the model's"],
        ),
        ("folder/llama/model.safetensors", ["is a file; name its directory, folder/llama"]),
        ("folder/llama/config.json", ["is a file; name its directory, folder/llama"]),
        ("file.txt", ["is a file; name a directory with config.json, a tokenizer and safetensors"]),
        ("empty", ["empty holds no model, it has no config.json; name a directory with"]),
        ("folder", ["it has no config.json; set it to", "/folder/llama, which has"]),
        ("ggufs", ["holds GGUF files, which can't be served alone"]),
        ("adapter", ["holds a LoRA adapter, not a model", "its base model (tiny)"]),
        ("my model", ["there is no directory my model"]),
        (
            "Qwen/Qwen3-8B",
            ["is not in", "HF_HUB_OFFLINE is set; set model.model_id to"],
        ),
    ],
)
def test_what_is_not_a_model(
    tell: Tell, environment: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    for directory in ("empty", "ggufs", "folder/llama"):
        Path(directory).mkdir(parents=True)
    for file in ("file.gguf", "file.txt", "ggufs/m.gguf", "folder/llama/model.safetensors"):
        Path(file).touch()
    Path("folder/llama/config.json").write_text("{}")
    make_tiny_adapter(Path("adapter"))
    environment.setenv("HF_HUB_OFFLINE", "1")
    environment.setenv("HF_HOME", "cache")
    name = str(Path("folder").absolute())[1:] if name == "LEADING" else name
    assert_told(tell("--model", name), USAGE, *words)
    assert_told(tell("check", "--model", name), USAGE, *words)
    assert_told(tell("check", "--model", name, *DRY), OK, "is valid", lines=0)


def change(path: Path, **values: object) -> None:
    document = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps(document))


def shorten(path: Path, size: int) -> None:
    with path.open("rb+") as file:
        file.truncate(size)


Damage = Callable[[Path], object]
INDEX = "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1"
SHARDS = '{"weight_map": {"a": "1.safetensors"}}'
DAMAGES: list[tuple[Damage, str]] = [
    (lambda d: (d / "config.json").write_text("{"), "cannot read"),
    (lambda d: (d / "model.safetensors").unlink(), "holds no weights (*.safetensors)"),
    (lambda d: shorten(d / "model.safetensors", 10_000), "is not whole, it has 10000 of"),
    (lambda d: (d / "model.safetensors").write_text("<html>"), "damaged or not a safetensors"),
    (lambda d: (d / "model.safetensors").write_text(POINTER), "is only a Git LFS pointer"),
    (lambda d: (d / INDEX).write_text(SHARDS), "lacks 1.safetensors of the 1 weight files"),
    (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer: copy tokenizer.json"),
    (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer.json is damaged"),
    (
        lambda d: (d / "chat_template.jinja").write_text("{% if a %}"),
        "chat_template.jinja is not valid: line 1: Unexpected end of template",
    ),
    (
        lambda d: change(d / "tokenizer_config.json", chat_template="{{ a"),
        "tokenizer_config.json is not valid: line 1: unexpected end of template",
    ),
    (
        lambda d: change(d / "config.json", architectures=["FooForCausalLM"]),
        "it can't run its architecture, FooForCausalLM: serve another model, or update V-Gate",
    ),
    (
        lambda d: change(d / "config.json", quantization_config="awq"),
        "quantization_config must be an object",
    ),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_a_model_that_is_damaged(tell: Tell, model: Path, damage: Damage, words: str) -> None:
    assert_told(tell("check", "--model", "model"), OK, "is valid", lines=0)
    damage(model)
    assert_told(tell("check", "--model", "model"), USAGE, words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantization": "awq"}, ["model.quantization is 'awq', but the checkpoint in", "is not"]),
        ({"chat_template": "no.jinja"}, ["cannot read no.jinja: No such file or directory"]),
        (
            {"engine_args": {"sed": 1}},
            ["model.engine_args.sed: vLLM has no such argument; did you"],
        ),
        ({"engine_args": {"max_model_length": 9}}, ["did you mean model.max_model_len?"]),
        ({"engine_args": {"dtype": "half"}}, ["model.engine_args.dtype: set model.dtype instead"]),
        ({"engine_args": {"tokenizer": "no"}}, ["tokenizer: there is no directory no"]),
        ({"max_model_len": 5000}, ["max_model_len is 5000", "4096 tokens: set it to that or less"]),
    ],
)
def test_settings_that_do_not_fit_the_model(
    tell: Tell, model: Path, settings: dict[str, object], words: list[str]
) -> None:
    write(json.dumps({"model": {"model_id": "model", **settings}}))
    assert_told(tell(), USAGE, *words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "`a`: lora holds no adapter, it has no adapter_config.json"),
        (lambda d: (d / "adapter_model.safetensors").unlink(), "it has no adapter_model.safetens"),
        (lambda d: shorten(d / "adapter_model.safetensors", 100), "`a`: lora/adapter_model"),
        (lambda d: change(d / "adapter_config.json", r=None), "has no rank, `r`"),
        (lambda d: change(d / "adapter_config.json", r=1024), "has rank 1024, the most is 512"),
    ],
)
def test_adapters(tell: Tell, model: Path, damage: Damage, words: str) -> None:
    make_tiny_adapter(Path("lora"))
    adapters = json.dumps([{"name": "a", "path": "lora"}])
    assert_told(tell("--model", "model", model__lora_adapters=adapters), OK, lines=0)
    damage(Path("lora"))
    assert_told(tell("--model", "model"), USAGE, "model.lora_adapters: `a`", words)


def test_an_adapter_of_another_model(tell: Tell, model: Path) -> None:
    make_tiny_adapter(Path("lora"))
    change(model / "config.json", hidden_size=4096)
    told = tell("--model", "model", model__lora_adapters='[{"name": "a", "path": "lora"}]')
    assert_told(told, USAGE, "`a`: lora was made for another model (tiny): its", "has 4096")


def test_every_model_is_checked(tell: Tell) -> None:
    others = '[{"model_id": "/no/other", "task": "embed"}]'
    told = tell("check", "--model", "/no/one", additional_models=others)
    assert_told(told, USAGE, "no directory /no/one", "no directory /no/other", lines=2)


def test_what_is_fine_is_served(tell: Tell, model: Path) -> None:
    assert_told(tell("--model", "model"), OK, lines=0)
    told = tell("check", "--model", "model")
    assert_told(told, OK, "model_id: model", "# The configuration is valid.", lines=0)
    # And neither holds on to the port.
    port = int(os.environ["VGATE_SERVER__PORT"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
