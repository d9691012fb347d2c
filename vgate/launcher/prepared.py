"""Makes a configuration ready for the processes: keys become hashes, files are checked."""

from pathlib import Path

import msgspec

from vgate.config import Config, ConfigError
from vgate.file_watcher import FileWatcher
from vgate.keys import KeyRing, KeysError, hash_key


def prepared(config: Config) -> Config:
    """Return the configuration as processes get it.

    Raises:
        ConfigError: Its keys or certificates can't be used.
    """
    return _prepare_tls(_prepare_security(config))


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
