"""What a running instance can take over from a configuration that was read again."""

from typing import Any

import msgspec

from vgate.config.schema import Config

# Settings of engines and of what the launcher has made at its start. `_AT_ONCE` has those below
# them that only frontends read.
_AT_RESTART = (
    "additional_models",
    "batch",
    "dry_run",
    "engine_link",
    "engines",
    "memory_groups",
    "model",
    "models",
    "residency",
    "server.host",
    "server.port",
    "server.run_dir",
    "server.state_dir",
    "server.workers",
    "supervision.max_restarts",
    "supervision.restart_window_s",
)
_AT_ONCE = (
    "model.allow_request_chat_template",
    "model.chat_template",
    "model.chat_template_kwargs",
    "model.tool_parser",
)


class Changes(msgspec.Struct, frozen=True):
    """The difference between two configurations.

    Attributes:
        config: The running one with the new values that need no restart.
        applied: The names of these settings.
        waiting: Names of the settings that have changed and count after a restart.
    """

    config: Config
    applied: list[str]
    waiting: list[str]


def changes(running: Config, wanted: Config) -> Changes:
    """Compare the running configuration with another."""
    found = Changes(wanted, [], [])
    document = _merge(msgspec.to_builtins(running), msgspec.to_builtins(wanted), "", found)
    return msgspec.structs.replace(found, config=msgspec.convert(document, Config))


def needs_restart(name: str) -> bool:
    """Whether a setting, by its dotted name, counts only after a restart."""
    return _is_below(name, _AT_RESTART) and not _is_below(name, _AT_ONCE)


def _is_below(name: str, names: tuple[str, ...]) -> bool:
    return f"{name}.".startswith(tuple(f"{each}." for each in names))


def _merge(running: Any, wanted: Any, name: str, found: Changes) -> Any:
    if running == wanted:
        return running
    sections = isinstance(running, dict) and isinstance(wanted, dict)
    if sections and running.keys() == wanted.keys():
        prefix = f"{name}." if name else ""
        return {key: _merge(running[key], wanted[key], f"{prefix}{key}", found) for key in wanted}
    if needs_restart(name):
        found.waiting.append(name)
        return running
    found.applied.append(name)
    return wanted
