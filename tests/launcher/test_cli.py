"""The vgate command: output, errors and exit statuses."""

import os
import socket

import pytest
import yaml

from vgate import __version__
from vgate.config import ConfigError
from vgate.launcher import cli
from vgate.launcher.reload.reloads import read_again


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Remove VGATE_ variables before a test, and those that it sets afterwards."""
    for name in os.environ:
        if name.startswith("VGATE_"):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield monkeypatch
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def served(monkeypatch):
    """Return the list of (configuration, backend) that would have been served."""
    calls = []
    monkeypatch.setattr(
        cli, "serve", lambda found, backend, _role: calls.append((found.config, backend)) or 0
    )
    return calls


class TestCheck:
    def test_it_prints_the_configuration_as_yaml(self, capsys):
        assert cli.main(["check", "--port", "9000"]) == 0
        out = capsys.readouterr().out
        assert yaml.safe_load(out)["server"]["port"] == 9000
        assert "The configuration is valid" in out

    def test_its_output_is_a_valid_file(self, capsys, tmp_path):
        cli.main(["check", "--port", "9000"])
        (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
        os.environ.pop("VGATE_SERVER__PORT")
        assert cli.main(["check", "--config", "again.yaml"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["server"]["port"] == 9000

    def test_secrets_are_hidden(self, capsys, tmp_path):
        text = "security: {api_keys: [{key: sk-secret, name: alice}]}"
        (tmp_path / "config.yaml").write_text(text)
        cli.main(["check"])
        printed = capsys.readouterr()
        assert "sk-secret" not in printed.out + printed.err

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("server: {prot: 1}", "did you mean `port`?"),
            ("server: {port: x}", "`server.port` must be an integer"),
            ("[", "not valid YAML"),
        ],
    )
    def test_an_invalid_file_is_reported_in_one_line(self, capsys, tmp_path, text, expected):
        (tmp_path / "config.yaml").write_text(text)
        assert cli.main(["check"]) == cli.EXIT_USAGE
        printed = capsys.readouterr()
        assert printed.out == ""
        assert expected in printed.err
        assert printed.err.startswith("vgate: ")
        assert printed.err.count("\n") == 1

    def test_a_model_that_cannot_be_served(self, capsys, environment, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        others = '[{"model_id": "/no/where", "task": "embed"}]'
        environment.setenv("VGATE_ADDITIONAL_MODELS", others)
        assert cli.main(["check", "--model", str(tmp_path)]) == cli.EXIT_USAGE
        printed = capsys.readouterr()
        first, second = printed.err.splitlines()
        assert first.startswith(f"vgate: model.model_id: {tmp_path} holds a LoRA adapter")
        assert second == "vgate: model.model_id: there is no directory /no/where"
        assert "is valid" not in printed.out

    def test_other_backends_need_no_model(self, capsys, environment):
        assert cli.main(["check", "--model", "/no/where", "--dry-run"]) == 0
        environment.setenv("VGATE_BACKEND", "other")
        assert cli.main(["check", "--model", "/no/where"]) == 0
        assert "is valid" in capsys.readouterr().out

    def test_an_unknown_variable_is_told_and_ignored(self, capsys, environment):
        environment.setenv("VGATE_SERVER__PROT", "1")
        environment.setenv("VGATE_PORT", "tcp://10.0.0.7:8000")
        assert cli.main(["check", "--dry-run"]) == cli.EXIT_OK
        assert capsys.readouterr().err == (
            "vgate: VGATE_SERVER__PROT is not a setting and is ignored; did you mean "
            "VGATE_SERVER__PORT?\n"
        )

    def test_all_that_is_wrong_is_told_at_once(self, capsys, tmp_path):
        (tmp_path / "config.yaml").write_text("server: {prot: 1, port: 0}\nlogging: {level: x}")
        assert cli.main(["check"]) == cli.EXIT_USAGE
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert all(line.startswith("vgate: `") for line in lines)


class TestFlags:
    def test_without_a_command_it_serves(self, served):
        assert cli.main([]) == 0
        ((config, backend),) = served
        assert (backend, config.server.port) == ("vllm", 8000)

    @pytest.mark.parametrize("arguments", [["--dry-run"], ["serve", "--dry-run"]])
    def test_dry_run(self, served, arguments):
        cli.main(arguments)
        assert served[0][1] == "dry_run"

    def test_another_backend_by_variable(self, served, environment):
        environment.setenv("VGATE_BACKEND", "other")
        cli.main([])
        cli.main(["--dry-run"])
        assert [backend for _, backend in served] == ["other", "dry_run"]

    @pytest.mark.parametrize(
        ("value", "backend"),
        [("1", "dry_run"), ("TRUE", "dry_run"), ("0", "vllm"), ("", "vllm"), ("no", "vllm")],
    )
    def test_dry_run_by_variable(self, served, environment, value, backend):
        environment.setenv("VGATE_DRY_RUN", value)
        cli.main([])
        assert served[0][1] == backend

    def test_flags_override_the_environment_and_the_file(self, served, environment, tmp_path):
        (tmp_path / "config.yaml").write_text("server: {port: 1, host: from-file}")
        environment.setenv("VGATE_SERVER__PORT", "2")
        cli.main(["--port", "3", "--model", "m"])
        config = served[0][0]
        assert (config.server.port, config.server.host) == (3, "from-file")
        assert config.model.model_id == "m"

    def test_an_invalid_flag_is_reported(self, capsys, served):
        assert cli.main(["--port", "many"]) == cli.EXIT_USAGE
        assert "many" in capsys.readouterr().err
        assert served == []

    def test_those_of_vllm_override_the_environment_and_the_file(
        self, served, environment, tmp_path, capsys
    ):
        (tmp_path / "config.yaml").write_text(
            "model: {engine_args: {seed: 1, load_format: dummy}, dtype: float32}"
        )
        environment.setenv("VGATE_MODEL__DTYPE", "bfloat16")
        cli.main(["serve", "m", "--dry-run", "--dtype", "half", "--seed", "2", "--swap-space", "4"])
        model = served[0][0].model
        assert (model.model_id, model.dtype) == ("m", "float16")
        assert model.engine_args == {"seed": 2, "load_format": "dummy"}
        assert capsys.readouterr().err == "vgate: --swap-space has no effect here\n"

    def test_a_file_may_have_those_of_vllm(self, served, tmp_path):
        (tmp_path / "flags.yaml").write_text("port: 9000\ndtype: half")
        cli.main(["serve", "m", "--dry-run", "--config", "flags.yaml"])
        config = served[0][0]
        assert (config.model.model_id, config.model.dtype) == ("m", "float16")
        assert config.server.port == 9000

    def test_an_invalid_one_of_vllm_is_reported(self, capsys, served):
        assert cli.main(["serve", "m", "--max-model-len", "x"]) == cli.EXIT_USAGE
        assert 'got "x" (from --max-model-len)' in capsys.readouterr().err
        assert served == []

    @pytest.mark.parametrize("arguments", [["--nothing"], ["nothing"], ["--port"]])
    def test_an_unknown_argument_is_a_usage_error(self, capsys, arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == cli.EXIT_USAGE

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(["--version"])
        assert caught.value.code == 0
        assert __version__ in capsys.readouterr().out


class TestCommands:
    """Where the configuration can't be used."""

    @pytest.fixture(autouse=True)
    def broken(self, environment):
        environment.setenv("VGATE_SERVER__PORT", "many")

    def test_it_is_told_by_those_that_need_it(self, capsys):
        assert cli.main(["status"]) == cli.EXIT_USAGE
        assert "`server.port` must be an integer" in capsys.readouterr().err

    def test_those_that_do_not_need_it_run(self, capsys, tmp_path):
        assert cli.main(["completion", "bash"]) == 0
        assert "complete -F _vgate vgate" in capsys.readouterr().out
        assert cli.main(["reload", "--run-dir", str(tmp_path)]) == cli.EXIT_FAILED
        assert "no V-Gate runs in" in capsys.readouterr().err
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}"
            assert cli.main(["status", "--url", url]) == 3
        assert "no server answers on http" in capsys.readouterr().err


def test_a_reload_wants_the_file_that_the_start_had(served, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "security: {enabled: true, api_keys: [{name: a, key: k}]}"
    )
    assert cli.main(["--dry-run"]) == 0
    config, empty = read_again()
    assert config.security.enabled
    assert not empty
    for text in ("", " \n", "# config.yaml\n"):
        (tmp_path / "config.yaml").write_text(text)
        assert read_again()[1] == "config.yaml"
    (tmp_path / "config.yaml").write_text("{}")
    assert not read_again()[1]
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"cannot read the configuration config\.yaml"):
        read_again()


def test_a_start_without_a_file_is_reloaded_without_one(served):
    assert cli.main(["--dry-run"]) == 0
    assert read_again() == (served[0][0], "")


def test_a_reload_names_the_instances_that_it_finds(capsys, tmp_path):
    others = [tmp_path / "vgate-1000-8000", tmp_path / "vgate-0-8001"]
    for other in others:
        other.mkdir()
        (other / "control.sock").touch()
    (tmp_path / "vgate-0-8002").mkdir()
    assert cli.main(["reload", "--run-dir", str(tmp_path / "vgate-0-8000")]) == cli.EXIT_FAILED
    told = capsys.readouterr().err
    assert f"name its directory with --run-dir, such as {others[1]} or {others[0]}" in told
    assert "vgate-0-8002" not in told


class TestServe:
    def test_a_port_in_use_is_reported_before_anything_loads(self, capsys, environment, tmp_path):
        environment.setenv("VGATE_SERVER__RUN_DIR", str(tmp_path / "run"))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert cli.main(["--dry-run", "--port", str(port)]) == cli.EXIT_FAILED
        assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_host_of_another_machine_is_reported(self, capsys):
        assert cli.main(["--dry-run", "--host", "192.0.2.1"]) == cli.EXIT_FAILED
        assert "cannot listen on 192.0.2.1" in capsys.readouterr().err

    @pytest.mark.parametrize("host", ["[::1]", "http://127.0.0.1", "127.0.0.1:80"])
    def test_a_host_with_more_than_an_address_is_reported(self, capsys, host):
        assert cli.main(["--dry-run", "--host", host]) == cli.EXIT_FAILED
        assert "must be only an address, without http://" in capsys.readouterr().err

    def test_a_run_directory_that_is_too_long_is_reported(self, capsys, environment, tmp_path):
        long = tmp_path / ("x" * 120)
        environment.setenv("VGATE_SERVER__RUN_DIR", str(long))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        assert cli.main(["--dry-run", "--port", str(port)]) == cli.EXIT_FAILED
        assert "longer than 107 bytes" in capsys.readouterr().err
        assert not long.exists()
