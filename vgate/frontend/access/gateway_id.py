"""The id of a gateway, under which a shared server keeps what it has used by its ledger."""

import secrets
from contextlib import suppress
from pathlib import Path

_FILE = "gateway-id"


def gateway_id(state: Path) -> str:
    """Return the id in the state directory, beside the ledger; it is made where there is none.

    Raises:
        OSError: It can be neither read nor made.
    """
    path = state / _FILE
    if not path.exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(4)}")
        draft.write_text(secrets.token_hex(8))
        # Another worker may have been first; then its id counts.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text().strip()
