"""``vgate uninstall``: removes what V-Gate has made on this machine, and nothing else."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from vgate.commands.command import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from vgate.commands.machine.installation import clone
from vgate.commands.machine.systemd import MADE_BY
from vgate.commands.text import note
from vgate.config import Config
from vgate.config.models.catalogue import CHOSEN, entry
from vgate.config.models.names import hub_folder
from vgate.config.runtime import default_run_dir, is_running

_UNITS = ("/etc/systemd/system/vgate.service", "~/.config/systemd/user/vgate.service")
# Of the state directory, which may be one with files of others.
_STATE = ("usage.db*", "logs", "memory", CHOSEN)
_GB, _MB = 1e9, 1e6


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "List what V-Gate created on this machine, ask, and remove it: environments, ledger, "
        "stored responses, logs and learned values in the state directory, the run directory, the "
        "systemd unit. The clone, the configuration and the API keys stay; so do models, unless "
        "--models is given."
    )
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument(
        "--models",
        action="store_true",
        help="also remove the configured models from Hugging Face's cache, which other programs "
        "may use",
    )


def run(options: argparse.Namespace, config: Config) -> int:
    """Remove it; return the exit status."""
    run_dir = Path(config.server.run_dir or default_run_dir(config.server.port))
    if is_running(run_dir):
        raise CommandError(f"an instance runs in {run_dir}: stop it first")
    found = [*_made(config, run_dir)]
    if options.models:
        found += _models(config)
    if not found:
        print("There is nothing to remove.")
        return EXIT_OK
    print("To be removed:")
    for path in found:
        print(f"  {path}{_size(path)}")
    if not options.yes and not _agreed():
        print("Nothing was removed.")
        return EXIT_FAILED
    failed = [path for path in found if not _remove(path)]
    with contextlib.suppress(OSError):  # only if nothing else is in it
        config.server.state_path.rmdir()
    _say_what_stays()
    return EXIT_FAILED if failed else EXIT_OK


def _made(config: Config, run_dir: Path) -> Iterator[Path]:
    for unit in map(Path, map(os.path.expanduser, _UNITS)):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if unit.read_text(encoding="utf-8").startswith(MADE_BY):
                yield unit
    # One that the user has named may hold files of others, and is emptied at each end anyway.
    if config.server.run_dir is None and run_dir.is_dir() and not run_dir.is_symlink():
        yield run_dir
    for pattern in (*_STATE, f"responses-{config.server.port}.db*"):
        yield from sorted(config.server.state_path.glob(pattern))
    # Last, because this program may run in it.
    root = clone()
    if root is not None and (root / ".venv").is_dir():
        yield root / ".venv"


def _models(config: Config) -> Iterator[Path]:
    names = [model.model_id for model in config.all_models]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        names.append((config.server.state_path / CHOSEN).read_text(encoding="utf-8").strip())
    for name in names:
        found = entry(name)
        for one in [variant.repository for variant in found.variants] if found else [name]:
            path = hub_folder(one)
            if not Path(one).exists() and path.is_dir():
                yield path


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask: --yes removes it", EXIT_USAGE)
    try:
        return input("Remove it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(path: Path) -> bool:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        note(f"cannot remove {error.filename or path}: {error.strerror}")
        return False
    return True


def _say_what_stays() -> None:
    if root := clone():
        print(f"The clone and its configuration stay: rm -r {root}")
    else:
        print(f"The package stays: {sys.executable} -m pip uninstall vgate")


def _size(path: Path) -> str:
    """Return the size, where it is worth to know."""
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    if total < _MB:
        return ""
    return f" ({total / _GB:.1f} GB)" if total >= _GB else f" ({total / _MB:.0f} MB)"
