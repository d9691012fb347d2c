"""``vgate service``: V-Gate as a service of systemd."""

import argparse
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from vgate.commands.command import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from vgate.commands.machine.installation import clone, program
from vgate.commands.machine.systemd import MADE_BY, Unit, escaped
from vgate.commands.text import note
from vgate.config import Config
from vgate.config.variables import CONFIG_PATH, FOR_COMMANDS, RESERVED

_SYSTEM = Path("/etc/systemd/system")
_NAME = "vgate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Write or delete a systemd unit. This starts and stops nothing: the command prints what to "
        "run next."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, what in (
        ("install", "write the unit for the configuration in force"),
        ("remove", "delete the unit that `install` has written"),
        ("status", "show the state of the service"),
    ):
        action = actions.add_parser(name, help=what, description=what.capitalize() + ".")
        action.add_argument(
            "--user",
            action="store_true",
            help="use a unit of your own, in ~/.config/systemd/user, instead of the system's",
        )
        if name == "install":
            action.add_argument(
                "--print", action="store_true", help="print the unit and write nothing"
            )
            action.add_argument(
                "--as",
                dest="account",
                metavar="ACCOUNT",
                help="account that the system's unit runs as (default: the user of sudo, or the "
                "owner of V-Gate's files)",
            )


def run(options: argparse.Namespace, config: Config) -> int:
    """Run the action; return the exit status."""
    folder = Path.home() / ".config/systemd/user" if options.user else _SYSTEM
    path = folder / f"{_NAME}.service"
    control = "systemctl --user" if options.user else "systemctl"
    if options.action == "status":
        return _status(path, control)
    if options.action == "remove":
        return _remove(path, control)
    unit = _unit(config, user=options.user, account=options.account)
    if options.print:
        sys.stdout.write(unit.text())
        return EXIT_OK
    return _install(path, unit, control)


def _unit(config: Config, *, user: bool, account: str | None) -> Unit:
    """Return the unit for the configuration in force."""
    named = Path(os.environ.get(CONFIG_PATH) or "config.yaml")
    start = program()
    writable = []
    variables = {}
    if python := os.environ.get("VGATE_PYTHON"):
        variables["VGATE_PYTHON"] = escaped(str(Path(shutil.which(python) or python).absolute()))
    entry = None if user else _account(account, start)
    if entry is not None:
        root = clone()
        writable += [root / ".venv"] if root else []
        # Models that were downloaded before.
        models = Path(entry.pw_dir, ".cache/huggingface")
        if models.is_dir():
            writable.append(models)
            variables["HF_HOME"] = escaped(str(models))
    return Unit(
        name=_NAME,
        program=start,
        config=named.absolute() if named.is_file() else None,
        user=entry.pw_name if entry else "",
        folder=Path.cwd(),
        port=config.server.port,
        drain_s=config.server.drain_delay_s + config.server.drain_timeout_s,
        writable=writable,
        variables=variables,
    )


def _account(named: str | None, start: Path) -> pwd.struct_passwd:
    try:
        if name := named or os.environ.get("SUDO_USER"):
            return pwd.getpwnam(name)
        owner = pwd.getpwuid(start.stat().st_uid)
    except (KeyError, OSError):
        what = f"`{named}`" if named else "the owner of V-Gate's files"
        raise CommandError(f"{what} is no account here: name one with --as", EXIT_USAGE) from None
    if owner.pw_uid == 0:
        raise CommandError(
            "V-Gate's files belong to root: name an unprivileged account with --as (or --as root "
            "to run as root)",
            EXIT_USAGE,
        )
    return owner


def _install(path: Path, unit: Unit, control: str) -> int:
    _check_ours(path)
    if unit.user and unit.config is None:
        note("there is no configuration file, so the service will have the defaults")
    for name in sorted(os.environ):
        if name.startswith("VGATE_") and name not in RESERVED | FOR_COMMANDS:
            note(f"{name} is set here, but not for the service: write it into the configuration")
    _check_environments(unit)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit.text(), encoding="utf-8")
    except PermissionError:
        raise CommandError(
            f"cannot write {path}: run it with sudo, or use --user for a unit of your own"
        ) from None
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
    log = "journalctl --user -u vgate -f" if not unit.user else "journalctl -u vgate -f"
    note(f"{path} is written. To start it now and at boot:\n")
    sys.stderr.write(f"  {control} daemon-reload && {control} enable --now {_NAME}\n\n")
    sys.stderr.write(f"Its log: {log}\n")
    if not unit.user:
        sys.stderr.write("It ends when you log out, unless you run: loginctl enable-linger\n")
    return EXIT_OK


def _check_environments(unit: Unit) -> None:
    """Tell if the account could not make the environments that a start needs."""
    root = clone()
    if root is None or not unit.user or "VGATE_PYTHON" in unit.variables:
        return
    folder = root / ".venv"
    owner = folder.stat().st_uid if folder.is_dir() else None
    if owner != pwd.getpwnam(unit.user).pw_uid:
        note(
            f"{unit.user} can't make environments in {folder}: run as root "
            f"`mkdir -p {folder} && chown -R {unit.user} {folder}`"
        )


def _remove(path: Path, control: str) -> int:
    if not path.exists():
        raise CommandError(f"there is no {path}")
    _check_ours(path)
    if _is_active(control):
        raise CommandError(f"it runs: `{control} disable --now {_NAME}` first, then this again")
    try:
        path.unlink()
    except OSError as error:
        raise CommandError(f"cannot delete {path}: {error.strerror}; run it with sudo") from None
    note(f"{path} is deleted. Now run: {control} daemon-reload")
    if path.parent == _SYSTEM:
        note(f"What it has kept, downloads too, stays in /var/lib/{_NAME}")
    return EXIT_OK


def _status(path: Path, control: str) -> int:
    if not path.exists():
        note(f"not installed: there is no {path}")
        return EXIT_FAILED
    if shutil.which("systemctl") is None:
        note(f"{path} is there, but this machine has no systemctl")
        return EXIT_FAILED
    return subprocess.run([*control.split(), "--no-pager", "status", _NAME], check=False).returncode


def _check_ours(path: Path) -> None:
    try:
        ours = not path.exists() or path.read_text(encoding="utf-8").startswith(MADE_BY)
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise CommandError(f"{path} was not written by this command: move it away first")


def _is_active(control: str) -> bool:
    if shutil.which("systemctl") is None:
        return False
    asked = [*control.split(), "--quiet", "is-active", _NAME]
    return subprocess.run(asked, check=False, stderr=subprocess.DEVNULL).returncode == 0
