"""Reads parts of a model's files from the Hugging Face Hub, or from a mirror of it."""

import os
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import IO

from vgate.config.models.names import hub_endpoint, is_offline
from vgate.fit.checkpoint import ReadPart
from vgate.fit.errors import FitError

_TIMEOUT_S = 30.0


def from_hub(name: str, revision: str | None = None) -> ReadPart:
    """Return how to read parts of a model's files on the Hub.

    `HF_ENDPOINT` names a mirror, `HF_TOKEN` or the file of `hf auth login` gives the right to
    models with a licence to accept, and with `HF_HUB_OFFLINE` nothing is fetched.

    Raises:
        FitError: The Hub may not be asked.
    """
    if is_offline():
        raise FitError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE is set: unset it, or name a "
            "directory with the model"
        )
    endpoint = hub_endpoint()
    base = f"{endpoint}/{name}/resolve/{urllib.parse.quote(revision or 'main', safe='')}"

    def read(file: str, start: int | None, most: int) -> bytes | None:
        try:
            request = urllib.request.Request(  # noqa: S310 - the operator's own setting
                f"{base}/{urllib.parse.quote(file)}"
            )
            if start is not None:
                request.add_header("Range", f"bytes={start}-{start + most - 1}")
            if token := hub_token():
                # Not sent on where the Hub redirects: its storage refuses two kinds of credentials.
                request.add_unredirected_header("Authorization", f"Bearer {token}")
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                if start is None:
                    content = bytes(answer.read(most))
                    if answer.length and len(content) < most:
                        raise IncompleteRead(content, answer.length)
                    return content
                if answer.status != HTTPStatus.PARTIAL_CONTENT:
                    # The whole file comes, so what is before the part is thrown away.
                    _skip(answer, start)
                return bytes(answer.read(most))
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND and file != "config.json":
                return None
            raise FitError(_refused(name, endpoint, error)) from None
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise FitError(
                f"cannot ask {endpoint} about {name}: {reason}; name a directory with the model, "
                "or set HF_ENDPOINT to a mirror"
            ) from None

    return read


def _skip(answer: IO[bytes], count: int) -> None:
    while count > 0 and (part := answer.read(min(count, 1 << 20))):
        count -= len(part)


def _refused(name: str, endpoint: str, error: urllib.error.HTTPError) -> str:
    if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return (
            f"{endpoint} does not give {name} without a permission: if the name is right, accept "
            f"the licence at {endpoint}/{name} and set HF_TOKEN"
        )
    if error.code == HTTPStatus.NOT_FOUND:
        return f"{endpoint} has no model {name} with a config.json: check the name"
    return f"{endpoint} answered {error.code} for {name}: try again later"


def hub_token() -> str:
    """Return the token of `HF_TOKEN` or of a login; "" without one."""
    if token := os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return token.strip()
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    try:
        path = os.environ.get("HF_TOKEN_PATH") or Path(home, "token")
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, RuntimeError):
        return ""
