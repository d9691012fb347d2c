"""Loading: the environment overrides the file, and errors name their source."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.config import Config, ConfigError, load
from vgate.config.load import REMOVED_KEYS, RESERVED
from vgate.keys import ConfiguredKey

ADAPTER_OF_ANOTHER_MODEL = """
model: {lora_adapters: [{name: b, path: p}]}
additional_models: [{model_id: b, task: embed}]
"""


@pytest.fixture
def load_yaml(tmp_path):
    path = tmp_path / "config.yaml"

    def load_(text, **environ):
        path.write_text(text, encoding="utf-8")
        return load({"VGATE_CONFIG_PATH": str(path), **environ})

    return load_


def refusal(load_, *arguments, **environ):
    with pytest.raises(ConfigError) as caught:
        load_(*arguments, **environ)
    return str(caught.value)


class TestFile:
    def test_nothing_gives_the_defaults(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert load({}) == Config()

    def test_config_yaml_of_the_working_directory_is_read(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.yaml").write_text("server: {port: 9000}")
        assert load({}).server.port == 9000

    def test_a_named_file_must_exist(self, tmp_path):
        missing = tmp_path / "missing.yaml"
        text = refusal(load, {"VGATE_CONFIG_PATH": str(missing)})
        assert str(missing) in text
        assert "No such file" in text

    @pytest.mark.parametrize(
        "text", ["", "# nothing\n", "---\n", "server:\ncache:\n", "server: {}"]
    )
    def test_an_empty_file_or_section_means_defaults(self, load_yaml, text):
        assert load_yaml(text) == Config()

    @pytest.mark.parametrize("text", ["- a\n", "text", "5"])
    def test_a_file_that_is_not_a_map_is_refused(self, load_yaml, text):
        assert "must hold a map" in refusal(load_yaml, text)

    @pytest.mark.parametrize("text", ["a: [", "\t- x", "a: b: c", "\x00", "a: &x [*y]"])
    def test_invalid_yaml_is_refused_in_one_line(self, load_yaml, text):
        message = refusal(load_yaml, text)
        assert "not valid YAML" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("text", "twice"),
        [
            ("server: {port: 1}\ncache: {}\nserver: {host: a}\n", ("server", 1, 3)),
            ("cache: {}\nserver:\n  port: 1\n  port: 2\n", ("port", 3, 4)),
            ("additional_models:\n  - {task: embed, task: embed}\n", ("task", 2, 2)),
        ],
    )
    def test_a_key_that_is_given_twice_is_refused(self, load_yaml, text, twice):
        name, first, second = twice
        message = refusal(load_yaml, text)
        assert f"has `{name}` in line {first} and again in line {second}" in message

    def test_anchors_and_merges_are_taken(self, load_yaml):
        text = "server: &s {port: 1}\ncache: &c {<<: {maxsize: 3}, maxsize: 5}\nbatch: {}\n"
        assert load_yaml(text).cache.maxsize == 5
        assert "is not a known field" in refusal(load_yaml, "x: &a [*a]")

    def test_deep_nesting_is_refused_in_one_line(self, load_yaml):
        assert "nested too deeply" in refusal(load_yaml, "server: " + "[" * 5000)

    def test_a_file_that_is_not_text_is_refused(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        assert str(path) in refusal(load, {"VGATE_CONFIG_PATH": str(path)})

    def test_a_directory_is_refused(self, tmp_path):
        assert str(tmp_path) in refusal(load, {"VGATE_CONFIG_PATH": str(tmp_path)})

    def test_python_objects_are_not_made(self, load_yaml):
        text = "server: !!python/object/apply:os.getcwd []"
        assert "not valid YAML" in refusal(load_yaml, text)


class TestEarlierVGate:
    @pytest.mark.parametrize("level", ["INFO", "Info", "info"])
    def test_a_level_may_have_any_case(self, load_yaml, level):
        assert load_yaml(f"logging: {{level: {level}}}").logging.level == "info"
        assert load_yaml("", VGATE_LOGGING__LEVEL=level).logging.level == "info"

    @pytest.mark.parametrize(("path", "instead"), REMOVED_KEYS.items())
    def test_a_removed_key_says_what_to_do_instead(self, load_yaml, path, instead):
        section, _, key = path.partition(".")
        message = refusal(load_yaml, f"{section}: {{{key or 'enabled'}: true}}")
        assert f"`{path}` is not a known field any more; {instead}" in message
        variable = f"VGATE_{path.upper().replace('.', '__')}"
        assert variable in refusal(load_yaml, "", **{variable: "true"})


class TestChecks:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("server: {prot: 1}", "`server.prot` is not a known field; did you mean `port`?"),
            ("severs: {}", "did you mean `server`?"),
            ("server: {zzz: 1}", "known here: host, port"),
            ("server: {port: 0}", "`server.port` must be an integer >= 1, got 0"),
            ("server: {port: 70000}", "<= 65535, got 70000"),
            ("server: {port: '9000'}", '`server.port` must be an integer, got "9000"'),
            ("server: {port: 1.5}", "`server.port` must be an integer, got 1.5"),
            ("server: {port: 2024-01-01}", "`server.port` must be an integer"),
            ("server: [1]", "`server` must be an object, got [1]"),
            ("model: {gpu_memory_utilization: 1.1}", "<= 1.0, got 1.1"),
            ("model: {dtype: int8}", "`model.dtype` must be 'auto' or 'bfloat16' or"),
            ("model: {served_model_name: []}", "`model.served_model_name`"),
            ("logging: {level: loud}", "`logging.level` must be 'critical' or 'debug' or"),
            ("batch: {max_wait_time_ms: -1}", "`batch.max_wait_time_ms`"),
            ("timeouts: {request_s: 0}", "`timeouts.request_s`"),
            ("model: {reasoning_parser: qwen3}", "`model.reasoning_parser` must be 'auto' or"),
            ("model: {lora_adapters: [{name: a}]}", "`model.lora_adapters[0].path` is required"),
            (
                "model: {lora_adapters: [{name: a, path: p, rank: 8}]}",
                "`model.lora_adapters[0].rank` is not a known field",
            ),
            ("security: {api_keys: [{name: a, min_priority: x}]}", "min_priority` must be"),
            ("security: {api_keys: [{key: a}]}", "`security.api_keys[0].name` is required"),
        ],
    )
    def test_an_invalid_value_is_reported_with_its_file(self, load_yaml, text, expected):
        message = refusal(load_yaml, text)
        assert expected in message
        assert "config.yaml" in message

    @pytest.mark.parametrize(
        "text",
        [
            "model: {model_id: m, lora_adapters: [{name: m, path: p}]}",
            "model: {served_model_name: [a, b], lora_adapters: [{name: b, path: p}]}",
            "model: {lora_adapters: [{name: b, path: p}, {name: b, path: q}]}",
            ADAPTER_OF_ANOTHER_MODEL,
        ],
    )
    def test_an_adapter_needs_its_own_name(self, load_yaml, text):
        assert "is used twice; give each its own" in refusal(load_yaml, text)

    def test_an_embedding_model_takes_no_adapters(self, load_yaml):
        text = "model: {task: embed, lora_adapters: [{name: a, path: p}]}"
        assert "embeds text, and takes no adapters" in refusal(load_yaml, text)

    def test_adapters_are_read(self, load_yaml):
        config = load_yaml("model: {lora_adapters: [{name: a, path: /a}, {name: b, path: /b}]}")
        assert config.model.adapter_names == ["a", "b"]

    @pytest.mark.parametrize(
        "text", ["{1: 1}", "{null: 1}", "server: {1: 1}", "server: {port: {null: 1}}"]
    )
    def test_keys_that_are_not_text_are_refused(self, load_yaml, text):
        assert refusal(load_yaml, text)

    @pytest.mark.parametrize(
        "text",
        [
            "security: {api_keys: [{key: 12345678, name: x}]}",
            "security: {api_keys: ['12345678']}",
            "security: {api_keys: '12345678'}",
            "security: ['12345678']",
            "security: {api_keys: [{key: ['12345678'], name: x}]}",
            "{1: 1, security: {api_keys: [{key: '12345678', name: x}]}}",
        ],
    )
    def test_a_refusal_never_shows_a_secret(self, load_yaml, text):
        assert "12345678" not in refusal(load_yaml, text)

    def test_a_secret_in_the_environment_is_not_shown_either(self, load_yaml):
        message = refusal(load_yaml, "", VGATE_SECURITY__API_KEYS='["12345678"]')
        assert "VGATE_SECURITY__API_KEYS" in message
        assert "12345678" not in message


class TestEnvironment:
    @pytest.mark.parametrize(
        ("variable", "text", "path", "value"),
        [
            ("VGATE_SERVER__PORT", "9000", "server.port", 9000),
            ("VGATE_SERVER__PORT", " 9000 ", "server.port", 9000),
            ("VGATE_SERVER__HOST", "0.0.0.0", "server.host", "0.0.0.0"),
            ("VGATE_SERVER__RUN_DIR", "/run/x", "server.run_dir", "/run/x"),
            ("VGATE_SERVER__RUN_DIR", "", "server.run_dir", None),
            ("VGATE_SERVER__RUN_DIR", "null", "server.run_dir", None),
            ("VGATE_SERVER__DRAIN_TIMEOUT_S", "1.5", "server.drain_timeout_s", 1.5),
            ("VGATE_SERVER__DRAIN_TIMEOUT_S", "2", "server.drain_timeout_s", 2),
            ("VGATE_CACHE__ENABLED", "false", "cache.enabled", False),
            ("VGATE_CACHE__ENABLED", "0", "cache.enabled", False),
            ("VGATE_CACHE__ENABLED", "off", "cache.enabled", False),
            ("VGATE_CACHE__ENABLED", "No", "cache.enabled", False),
            ("VGATE_LOGGING__JSON_FORMAT", "YES", "logging.json_format", True),
            ("VGATE_LOGGING__JSON_FORMAT", "1", "logging.json_format", True),
            ("VGATE_MODEL__MODEL_ID", "123", "model.model_id", "123"),
            ("VGATE_MODEL__MODEL_ID", "[odd]", "model.model_id", "[odd]"),
            ("VGATE_MODEL__DTYPE", "float32", "model.dtype", "float32"),
            ("VGATE_MODEL__QUANTIZATION", "None", "model.quantization", None),
            ("VGATE_MODEL__SERVED_MODEL_NAME", "a", "model.served_model_name", "a"),
            ("VGATE_MODEL__SERVED_MODEL_NAME", '["a", "b"]', "model.served_model_name", ["a", "b"]),
            ("VGATE_MODEL__ENGINE_ARGS", '{"seed": 1}', "model.engine_args", {"seed": 1}),
            (
                "VGATE_SECURITY__API_KEYS",
                '[{"key": "k", "name": "n"}]',
                "security.api_keys",
                [ConfiguredKey(key="k", name="n")],
            ),
            ("VGATE_SECURITY__RATE_LIMITING__DEFAULT_LIMIT", "7", "security.rate_limiting", None),
            ("VGATE_VERSION", "2.0", "version", "2.0"),
        ],
    )
    def test_a_variable_sets_its_key(self, load_yaml, variable, text, path, value):
        found = load_yaml("", **{variable: text})
        if variable.endswith("DEFAULT_LIMIT"):
            assert found.security.rate_limiting.default_limit == 7
            return
        for step in path.split("."):
            found = getattr(found, step)
        assert found == value

    def test_it_overrides_one_key_of_the_file(self, load_yaml):
        config = load_yaml("server: {port: 1, host: h}", VGATE_SERVER__PORT="2")
        assert (config.server.port, config.server.host) == (2, "h")

    def test_it_fills_an_empty_section(self, load_yaml):
        assert load_yaml("server:", VGATE_SERVER__PORT="2").server.port == 2

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"VGATE_SERVER__PORT": "many"}, "`server.port`"),
            ({"VGATE_SERVER__PORT": "0"}, "`server.port`"),
            ({"VGATE_SERVER__PROT": "1"}, "did you mean `port`?"),
            ({"VGATE_SEVRER__PORT": "1"}, "did you mean `server`?"),
            ({"VGATE_TYPO": "1"}, "not a known field"),
            ({"VGATE_SERVER": "x"}, "`server` must be an object"),
            ({"VGATE_SERVER__PORT__X": "1"}, "`server.port`"),
            ({"VGATE_CACHE__ENABLED": "maybe"}, "`cache.enabled`"),
            ({"VGATE_MODEL__ENGINE_ARGS": "{"}, "must be JSON"),
            ({"VGATE_SECURITY__EXEMPT_PATHS": "/a"}, "must be a list"),
        ],
    )
    def test_an_invalid_variable_is_reported(self, load_yaml, environ, expected):
        message = refusal(load_yaml, "", **environ)
        (variable,) = environ
        assert expected in message
        assert variable in message

    def test_a_key_inside_a_value_is_refused(self, load_yaml):
        message = refusal(load_yaml, "server: 5", VGATE_SERVER__PORT="1")
        assert "`server`, which is not a section" in message

    def test_reserved_variables_are_not_keys(self, load_yaml):
        reserved = {name: "1" for name in RESERVED if name != "VGATE_CONFIG_PATH"}
        assert load_yaml("", **reserved) == Config()

    def test_other_variables_are_ignored(self, load_yaml):
        assert load_yaml("", XVGATE_SERVER__PORT="x", VGATES="y", PATH="/") == Config()

    def test_a_problem_in_the_file_is_not_reported_for_a_variable(self, load_yaml):
        message = refusal(load_yaml, "server: {port: 0}", VGATE_SERVER__HOST="h")
        assert "VGATE_SERVER__HOST" not in message

    @given(
        name=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", max_size=30),
        text=st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30
        ),
    )
    def test_any_variable_is_accepted_or_refused(self, name, text):
        try:
            load({"VGATE_CONFIG_PATH": "/dev/null", f"VGATE_{name}": text})
        except ConfigError as error:
            assert str(error)  # noqa: PT017 - both ends are right, if the refusal says something

    @given(
        port=st.integers(1, 65535),
        names=st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True),
    )
    def test_the_file_and_the_environment_mean_the_same(self, port, names):
        environ = {
            "VGATE_CONFIG_PATH": "/dev/null",
            "VGATE_SERVER__PORT": str(port),
            "VGATE_MODEL__SERVED_MODEL_NAME": json.dumps(names),
        }
        config = load(environ)
        assert (config.server.port, config.model.served_names) == (port, names)
