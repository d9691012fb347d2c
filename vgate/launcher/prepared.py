"""Makes a configuration ready for the processes: keys become hashes, files are checked."""

from importlib.util import find_spec
from pathlib import Path

import msgspec

from vgate.config import Config, ConfigError
from vgate.config.models import catalogue
from vgate.file_watcher import FileWatcher
from vgate.keys import KeyRing, KeysError, hash_key
from vgate.state_link import MISSING


def prepared(config: Config) -> Config:
    """Return the configuration as processes get it; raise `ConfigError` if they couldn't use it."""
    problems: list[str] = []
    config = _with_repositories(config)
    config = _with_responses(config)
    for prepare in (_with_tracing, _with_state, _prepare_security, _prepare_tls):
        try:
            config = prepare(config)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return config


def _with_repositories(config: Config) -> Config:
    """Return the configuration with models from the Hub where it has short names."""
    if not any(catalogue.entry(model.model_id) for model in config.all_models):
        return config
    from vgate.fit.short_names import resolved

    return config.with_models(resolved)


def _with_responses(config: Config) -> Config:
    """Return the configuration with the file of stored responses, which outlives the instance.

    Where the state directory can't be written, as in a container whose root is read-only, no file
    is named: they are in the run directory.
    """
    responses, server = config.responses, config.server
    if not responses.store or responses.file or not server.keeps_state:
        return config
    file = server.state_path.absolute() / f"responses-{server.port}.db"
    responses = msgspec.structs.replace(responses, file=str(file))
    return msgspec.structs.replace(config, responses=responses)


def _with_tracing(config: Config) -> Config:
    """Return the configuration; `ConfigError` if the packages that traces need are missing."""
    if config.tracing.endpoint is None:
        return config
    protocol = config.tracing.protocol or "http"
    try:
        found = all(
            map(find_spec, ("opentelemetry.sdk", f"opentelemetry.exporter.otlp.proto.{protocol}"))
        )
    except ModuleNotFoundError:  # a parent of it is missing
        found = False
    if not found:
        raise ConfigError(
            "tracing.endpoint is set, but the OpenTelemetry SDK is not installed: "
            "pip install 'vgate[otel]', or leave tracing.endpoint out"
        )
    return config


def _with_state(config: Config) -> Config:
    """Return the configuration with an absolute path; `ConfigError` if a package is missing."""
    state = config.state
    if state.url is None:
        return config
    if find_spec("redis") is None:
        raise ConfigError(MISSING)
    if state.ca is not None:
        if not Path(state.ca).is_file():
            raise ConfigError(f"state.ca: there is no file {state.ca}")
        state = msgspec.structs.replace(state, ca=str(Path(state.ca).absolute()))
    return msgspec.structs.replace(config, state=state)


def _prepare_security(config: Config) -> Config:
    """Replace the keys by their hashes, or raise `ConfigError` if they can't be used."""
    security = config.security
    if not security.enabled:
        return config
    key_file = Path(security.key_file).absolute() if security.key_file else None
    if key_file is not None:
        FileWatcher(key_file).wait()
    try:
        ring = KeyRing.build(security.api_keys, key_file)
    except KeysError as error:
        raise ConfigError(str(error)) from None
    if not len(ring):
        if key_file is not None and not key_file.exists():
            raise ConfigError(
                f"security.key_file: there is no file {key_file}, so nobody could use the server: "
                "`vgate keys add NAME` makes it, with a key"
            )
        raise ConfigError(
            "security.enabled is true, but there are no keys, so nobody could use the server: add "
            "one to security.api_keys, or set security.key_file and run `vgate keys add NAME`"
        )
    hashed = [
        msgspec.structs.replace(key, key=None, key_sha256=hash_key(key.key)) if key.key else key
        for key in security.api_keys
    ]
    security = msgspec.structs.replace(
        security, api_keys=hashed, key_file=str(key_file) if key_file else None
    )
    return msgspec.structs.replace(config, security=security)


def _prepare_tls(config: Config) -> Config:
    """Make the paths absolute, or raise `ConfigError` if the files can't be used."""
    if not config.server.tls.enabled:
        return config
    # Needs OpenSSL, which takes a megabyte.
    from vgate.config.tls import TlsError, check_tls

    paths = {
        name: value and str(Path(value).absolute())
        for name in ("certificate", "key", "client_ca")
        for value in [getattr(config.server.tls, name)]
    }
    tls = msgspec.structs.replace(config.server.tls, **paths)
    try:
        check_tls(tls)
    except TlsError as error:
        raise ConfigError(str(error)) from None
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, tls=tls))
