"""Loading: the environment overrides the file, and errors name their source."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.config import Config, ConfigError, load
from vgate.config.variables import REMOVED_KEYS, RESERVED, unknown_variables, without_settings
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


def told(environ):
    return [str(unknown) for unknown in unknown_variables(environ)]


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

    def test_without_a_main_model_the_first_of_the_list_is_it(self, load_yaml):
        models = "models: [{model_id: a, task: generate}, {model_id: b, task: embed}]"
        assert [model.name for model in load_yaml(models).all_models] == ["a", "b"]
        config = load_yaml(f"model: {{model_id: m}}\n{models}")
        assert [model.name for model in config.all_models] == ["m", "a", "b"]
        config = load_yaml(
            "model: {dtype: float32, fill: never}\n"
            "models: [{model_id: a}, {model_id: b, fill: always, load: on_demand}]"
        )
        assert [(m.name, m.dtype, m.fill) for m in config.all_models] == [
            ("a", "float32", "never"),
            ("b", "float32", "always"),
        ]
        config = load_yaml("additional_models: [{model_id: a, task: embed}]")
        assert [model.name for model in config.all_models] == [Config().model.name, "a"]

    @pytest.mark.parametrize(
        "text", ["", "# nothing\n", "---\n", "server:\ncache:\n", "server: {}"]
    )
    def test_an_empty_file_or_section_means_defaults(self, load_yaml, text):
        assert load_yaml(text) == Config()

    def test_proxies_are_addresses_or_networks(self, load_yaml):
        config = load_yaml('server: {trusted_proxies: [10.0.0.7/8, "::1"]}')
        assert config.server.trusted_proxies == ["10.0.0.7/8", "::1"]
        text = refusal(load_yaml, "server: {trusted_proxies: [10.0.0.0/8, proxy.example]}")
        assert "`server.trusted_proxies[1]` must be an address or a network" in text
        assert '"proxy.example"' in text

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

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("server:\n\tport: 1\n", ["line 2, column 1: found", "with spaces, not with tabs"]),
            ("a: b: c", ["line 1, column 5:", "needs quotes"]),
            ("server:\n  port: 1\n host: x\n", ["line 3", "the same indent"]),
            ("server: {port: 1\n", ["line 2, column 1: expected ',' or '}'"]),
        ],
    )
    def test_invalid_yaml_is_located(self, load_yaml, text, words):
        message = refusal(load_yaml, text)
        assert [word for word in words if word not in message] == [], message

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
        assert load_yaml("", **{variable: "true"}) == Config()
        assert told({variable: "true"}) == [
            f"{variable} is not a setting and is ignored; {instead}"
        ]


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
            *(
                (
                    f"security: {{api_keys: [{{name: a, key: b, expires_at: {time}}}]}}",
                    "`security.api_keys[0].expires_at` must be a time with its zone, such as",
                )
                for time in ("2030-01-01", "2030-01-01T00:00:00", "tomorrow", "5")
            ),
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
        text = text.replace("embed", "classify")
        assert "classifies text, and takes no adapters" in refusal(load_yaml, text)

    def test_it_is_known_by_its_files(self, load_yaml, tmp_path):
        model = tmp_path / "m"
        model.mkdir()
        text = f"model: {{model_id: {model}, lora_adapters: [{{name: a, path: p}}]}}"
        load_yaml(text)  # only its engine will know
        (model / "config.json").write_text('{"architectures": ["BertModel"]}')
        assert "embeds text, and takes no adapters" in refusal(load_yaml, text)
        alias = (
            f"model: {{model_id: {model}}}\naliases: {{a: {{model: {model}, system_prompt: p}}}}"
        )
        assert "has no meaning" in refusal(load_yaml, alias)

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


class TestAllAtOnce:
    TEXT = """
server:
  prot: 1
  port: 0
  tls: {reload: 5}
model:
  dtype: bfloat
  lora_adapters: [{name: a}, {pth: b}]
logging: {level: inof}
security: {api_keys: [{key: k, nam: x}, sk-secret]}
"""

    def test_each_with_its_line_and_what_is_allowed(self, load_yaml):
        with pytest.raises(ConfigError) as caught:
            load_yaml(self.TEXT, VGATE_BATCH__MAX_NUM_SEQS="many", VGATE_CACHE="x")
        found = sorted(caught.value.problems)
        words = [
            ("`batch.max_num_seqs` must be", "(from VGATE_BATCH__MAX_NUM_SEQS)"),
            ("`cache` must be an object", "(from VGATE_CACHE)"),
            ("`logging.level` must be", "did you mean 'info'?", "line 9)"),
            ("`model.dtype` must be 'auto' or", "did you mean 'bfloat16'?", "line 7)"),
            ("`model.lora_adapters[0].path` is required",),
            ("`model.lora_adapters[1].name` is required",),
            ("`model.lora_adapters[1].path` is required",),
            ("`model.lora_adapters[1].pth` is not", "did you mean `path`?", "line 8)"),
            ("`security.api_keys[0].nam` is not", "did you mean `name`?"),
            ("`security.api_keys[0].name` is required",),
            ("`security.api_keys[1]` must be an object",),
            ("`server.port` must be an integer >= 1, got 0", "line 4)"),
            ("`server.prot` is not a known field; did you mean `port`?", "line 3)"),
            ("`server.tls.reload` must be true or false, got 5", "line 5)"),
        ]
        assert len(found) == len(words), found
        for line, expected in zip(found, words, strict=True):
            assert [word for word in expected if word not in line] == [], line
        assert "sk-secret" not in str(caught.value)

    def test_every_key_that_is_given_twice(self, load_yaml):
        with pytest.raises(ConfigError) as caught:
            load_yaml("server: {port: 1, port: 2}\ncache: {ttl_s: 1}\nserver: {}\n")
        assert len(caught.value.problems) == 2

    def test_every_name_that_is_given_twice(self, load_yaml):
        text = "security: {api_keys: [{key: aaa, name: a}, {key: bbb, name: a}]}\n"
        text += "model: {model_id: m}\nadditional_models: [{model_id: m, task: embed}]"
        with pytest.raises(ConfigError) as caught:
            load_yaml(text)
        assert [problem.split(" is ")[0] for problem in caught.value.problems] == [
            "served_model_name `m`",
            "security.api_keys: the name `a`",
        ]


ALIASES = """
model: {model_id: m, task: generate, served_model_name: [qwen3, q],
  lora_adapters: [{name: sql, path: p}]}
additional_models: [{model_id: e, task: embed}, {model_id: c, task: classify}, {model_id: u}]
aliases:
"""


class TestAliases:
    def test_values_are_those_of_requests(self, load_yaml):
        text = "  qwen2.5-fast: {model: q, defaults: {temperature: 1, top_k: 4}, keys: [a]}\n"
        text += "  long: {model: sql, locked: {logit_bias: {7: 2}, reasoning_effort: none}}\n"
        text += "  small: {model: e, locked: {dimensions: 64}}\n"
        # Only its engine will know what this one does.
        text += "  unknown: {model: u, locked: {dimensions: 64}}\nsecurity: {enabled: true}"
        aliases = load_yaml(ALIASES + text).aliases
        assert aliases["qwen2.5-fast"].defaults.given() == {"temperature": 1, "top_k": 4}
        assert aliases["long"].locked.given() == {"logit_bias": {7: 2}, "reasoning_effort": "none"}

    def test_mistakes_are_told_with_their_place(self, load_yaml):
        text = "  qwen2.5-fast: {model: q, defaults: {temprature: 5, top_p: 7}, keyz: [a]}\n"
        text += "  b: {locked: {max_tokens: 0}}\n"
        with pytest.raises(ConfigError) as caught:
            load_yaml(ALIASES + text)
        *found, missing = caught.value.problems
        for said, words in zip(
            found,
            [
                ("`aliases.qwen2.5-fast.defaults.temprature`", "did you mean `temperature`?"),
                ("`aliases.qwen2.5-fast.defaults.top_p` must be", "<= 1.0, got 7", "line 6"),
                ("`aliases.qwen2.5-fast.keyz`", "did you mean `keys`?"),
                ("`aliases.b.locked.max_tokens`", ">= 1, got 0", "line 7"),
            ],
            strict=True,
        ):
            assert all(word in said for word in words), said
        assert missing.startswith("`aliases.b.model` is required")

    @pytest.mark.parametrize(
        ("alias", "said"),
        [
            ("q: {model: m}", "`aliases.q`: a model or an adapter is served under this name"),
            ("sql: {model: q}", "`aliases.sql`: a model or an adapter is served"),
            ("a: {model: qwen}", "`aliases.a.model`: no model has the served name `qwen`; did you"),
            (
                "a: {model: m}",
                "no model has the served name `m`; there is qwen3",
            ),
            ("a: {model: a}", "`aliases.a.model`: `a` is an alias; name its model"),
            ("a: {model: q, keys: [k]}", "`aliases.a.keys` needs API keys; set security.enabled"),
            ("a: {model: q, locked: {dimensions: 3}}", "`aliases.a.locked.dimensions` has no"),
            ("a: {model: e, defaults: {seed: 3}}", "`aliases.a.defaults.seed` has no meaning"),
            ("a: {model: e, system_prompt: s}", "`aliases.a.system_prompt` has no meaning"),
            ("a: {model: c, defaults: {seed: 3}}", "no meaning: `c` classifies text"),
            ("a: {model: c, locked: {dimensions: 3}}", "no meaning: `c` classifies text"),
            ("a: {model: c, system_prompt: s}", "no meaning: `c` classifies text"),
            (
                "a: {model: q, defaults: {min_tokens: 9}, locked: {max_tokens: 3}}",
                "`aliases.a`: min_tokens must be at most its max_tokens, 3, got 9",
            ),
        ],
    )
    def test_what_does_not_fit_the_models(self, load_yaml, alias, said):
        assert said in refusal(load_yaml, f"{ALIASES}  {alias}")


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
            ({"VGATE_SERVER": "x"}, "`server` must be an object"),
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

    @pytest.mark.parametrize(
        ("variable", "hint"),
        [
            ("VGATE_SERVER__PROT", "; did you mean VGATE_SERVER__PORT?"),
            ("VGATE_SEVRER__PORT", "; did you mean VGATE_SERVER__PORT?"),
            ("VGATE_PORT", "; did you mean VGATE_SERVER__PORT?"),
            ("VGATE_DTYPE", "; did you mean VGATE_MODEL__DTYPE?"),
            ("VGATE_DRYRUN", "; did you mean VGATE_DRY_RUN?"),
            ("VGATE_SERVER_PORT", "; did you mean VGATE_SERVER__PORT?"),
            ("VGATE_SERVER__PORT__X", "; did you mean VGATE_SERVER__PORT?"),
            ("VGATE_CONFIG", "; did you mean VGATE_CONFIG_PATH?"),
            ("VGATE_TELEMETRY__ENABLED", ""),
            ("VGATE_ENABLED", ""),
            ("VGATE_SOMETHING_ELSE", ""),
        ],
    )
    def test_an_unknown_variable_is_told_and_ignored(self, load_yaml, variable, hint):
        assert load_yaml("", **{variable: "1"}) == Config()
        assert told({variable: "1"}) == [f"{variable} is not a setting and is ignored{hint}"]

    def test_what_only_vllms_own_server_follows_is_told(self):
        (line,) = told({"VLLM_USE_MODELSCOPE": "True", "VLLM_LOGGING_LEVEL": "DEBUG"})
        assert line.startswith("VLLM_USE_MODELSCOPE is not a setting and is ignored; models come")
        assert told({"VLLM_USE_MODELSCOPE": "False"}) == []
        assert without_settings({"VLLM_USE_MODELSCOPE": "True"}) == {}

    def test_what_kubernetes_sets_is_ignored_in_silence(self, load_yaml):
        environ = {
            "VGATE_PORT": "tcp://10.0.0.7:8000",
            "VGATE_SERVICE_HOST": "10.0.0.7",
            "VGATE_SERVICE_PORT": "8000",
            "VGATE_SERVICE_PORT_HTTP": "8000",
            "VGATE_PORT_8000_TCP": "tcp://10.0.0.7:8000",
            "VGATE_PORT_8000_TCP_PROTO": "tcp",
            "VGATE_PORT_8000_TCP_PORT": "8000",
            "VGATE_PORT_8000_TCP_ADDR": "10.0.0.7",
            "VGATE_CHAT_SERVICE_HOST": "10.0.0.8",
            "VGATE_CHAT_PORT": "tcp://10.0.0.8:80",
        }
        assert load_yaml("", **environ) == Config()
        assert told(environ) == []

    def test_settings_are_not_told(self):
        environ = dict.fromkeys(RESERVED, "1") | {"VGATE_MODEL__ENGINE_ARGS__SEED": "1", "PATH": ""}
        assert told(environ) == []

    def test_a_key_of_a_map(self, load_yaml):
        config = load_yaml("", VGATE_MODEL__ENGINE_ARGS__LOAD_FORMAT="dummy")
        assert config.model.engine_args == {"load_format": "dummy"}

    @pytest.mark.parametrize(
        ("text", "value"),
        [("8", 8), ("False", False), ('{"a": 1}', {"a": 1}), ('"8"', "8"), ("half", "half")],
    )
    def test_a_value_of_any_type_is_json_or_text(self, load_yaml, text, value):
        config = load_yaml("", VGATE_MODEL__ENGINE_ARGS__X=text)
        assert config.model.engine_args == {"x": value}

    def test_a_map_of_sections_has_their_types(self, load_yaml):
        alias = {"MODEL": "8", "SYSTEM_PROMPT": "9", "DEFAULTS__TEMPERATURE": "1"}
        variables = {f"VGATE_ALIASES__FAST__{name}": text for name, text in alias.items()}
        found = load_yaml("model: {served_model_name: '8'}", **variables).aliases["fast"]
        assert (found.model, found.system_prompt, found.defaults.temperature) == ("8", "9", 1)

    def test_a_key_inside_a_value_is_refused(self, load_yaml):
        message = refusal(load_yaml, "server: 5", VGATE_SERVER__PORT="1")
        assert "`server`, which is not a section" in message

    @pytest.mark.parametrize("text", ["", "security: {enabled: false, api_keys: []}", "security:"])
    def test_vllms_key_is_required(self, load_yaml, text):
        security = load_yaml(text, VLLM_API_KEY="sk-secret").security
        assert security.enabled
        assert [(key.key, key.rate_limit) for key in security.api_keys] == [
            ("sk-secret", 1_000_000)
        ]
        assert without_settings({"VLLM_API_KEY": "sk-secret", "HOME": "/"}) == {"HOME": "/"}

    def test_own_keys_go_before_vllms(self, load_yaml):
        own = "security: {enabled: true, api_keys: [{name: a, key: own}]}"
        (key,) = load_yaml(own, VLLM_API_KEY="theirs").security.api_keys
        assert key.key == "own"
        off = load_yaml("", VLLM_API_KEY="theirs", VGATE_SECURITY__ENABLED="false").security
        assert not off.enabled
        assert not load_yaml("", VLLM_API_KEY="").security.enabled

    def test_reserved_variables_are_not_keys(self, load_yaml):
        reserved = {name: "1" for name in RESERVED if name != "VGATE_CONFIG_PATH"}
        assert load_yaml("", **reserved) == Config()

    def test_other_variables_are_ignored(self, load_yaml):
        assert load_yaml("", XVGATE_SERVER__PORT="x", VGATES="y", PATH="/") == Config()

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("residency: {max_wait_s: .inf}", "residency.max_wait_s"),
            ("models: [{model_id: a, idle_ttl_s: .inf}]", "models[0].idle_ttl_s"),
            ("model: {engine_args: {swap_space: .nan}}", "model.engine_args.swap_space"),
        ],
    )
    def test_what_other_processes_can_not_be_told_is_refused(self, load_yaml, text, path):
        message = refusal(load_yaml, text)
        assert f"`{path}` must be a number that is not infinite" in message
        assert "line 1" in message

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

    @settings(deadline=None)
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
