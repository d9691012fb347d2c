"""Which files a version of a model has, as the Hub lists them."""

import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from vgate.config.models.names import hub_endpoint
from vgate.hub.errors import HubError, is_of_the_disk, status_of
from vgate.hub.files import HubFile, is_inside, needed
from vgate.hub.transfer import Waiting

_ASK_TIMEOUT_S = 15.0
# How long a Hub that nothing is heard of is tried, not counting the last try.
_SILENT_S = 30.0
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Models of a trillion parameters have some hundred files; the list has 300 bytes for each.
_MOST_FILES = 10_000
_MOST_LIST_BYTES = 32_000_000


def listed(
    name: str, revision: str | None, say: Callable[[str], None], *, patient: bool
) -> tuple[str, list[HubFile]]:
    """Return the commit that a revision is, and the files that are needed to serve the model.

    `say` is told why it takes longer. Without `patient` nothing is tried again.

    Raises:
        HubError: What is listed can't be fetched.
        Exception: The library's error; the Hub doesn't answer.
    """
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if not hub_endpoint().startswith(("http://", "https://")):
        raise HubError(f"HF_ENDPOINT, {hub_endpoint()}, is no address", permanent=True)
    waiting, began = Waiting(threading.Event(), say), time.monotonic()
    found = None
    while found is None:
        try:
            found = _asked(name, revision)
        except (OfflineModeIsEnabled, HFValidationError, HubError):
            raise
        except Exception as error:
            if not patient:
                raise
            _wait(waiting, error, time.monotonic() - began)
    siblings = {one.rfilename: one for one in found.siblings or []}
    names = sorted(one for one in needed(siblings) if is_inside(one))
    if not names or found.sha is None:
        raise HubError("it has no files that can be served", permanent=True)
    if len(names) > _MOST_FILES:
        raise HubError(
            f"it has {len(names):,} files, and a model has {_MOST_FILES:,} at most: name another "
            "version of it",
            permanent=True,
        )
    if not _HASH.fullmatch(found.sha):  # it becomes the name of a folder
        raise HubError(
            f"{hub_endpoint()} names no commit of it: set HF_ENDPOINT to another mirror, or unset "
            "it",
            permanent=True,
        )
    return found.sha, [_file(siblings[name], found.sha) for name in names]


def _wait(waiting: Waiting, error: Exception, tried_s: float) -> None:
    """Wait before another try, or raise why there is none."""
    answers = status_of(error) or is_of_the_disk(error)
    try:
        if not answers and tried_s > _SILENT_S:
            raise error
        waiting.wait(error)
    except Exception:
        if answers:
            raise
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> HubError:
    """Return the error of a Hub that was tried for long enough: who may mend it has to be told."""
    return HubError(
        f"{hub_endpoint()} can't be reached ({error}). Check the network; set HTTPS_PROXY if there "
        "is a proxy, or HF_ENDPOINT to a mirror; or set model.model_id to a directory with the "
        "model, and HF_HUB_OFFLINE=1 so that nothing is asked",
        permanent=True,
    )


def _asked(name: str, revision: str | None) -> Any:
    """Return the library's ModelInfo, of an answer that is read no further than it may be long."""
    from huggingface_hub import ModelInfo
    from huggingface_hub import utils as typed

    utils: Any = typed  # names some of its functions as private
    info: Any = ModelInfo
    utils.validate_repo_id(name)
    url = f"{hub_endpoint()}/api/models/{name}"
    if revision is not None:
        url += f"/revision/{urllib.parse.quote(revision, safe='')}"
    options = {
        "params": {"blobs": True},
        "headers": utils.build_hf_headers(),
        "timeout": _ASK_TIMEOUT_S,
    }
    content = bytearray()
    with utils.get_session().stream("GET", url, **options) as answer:
        utils.hf_raise_for_status(answer)
        for piece in answer.iter_bytes():
            content += piece
            if len(content) > _MOST_LIST_BYTES:
                raise HubError(
                    f"the list of its files has more than {_MOST_LIST_BYTES // 1_000_000} MB, "
                    "which no model's has: name another version of it",
                    permanent=True,
                )
    return info(**json.loads(content))


def _file(sibling: Any, commit: str) -> HubFile:
    # A mirror may leave the hashes out, and they become names of files. Sizes may be anything.
    name, size = sibling.rfilename, sibling.size
    size = max(0, size) if isinstance(size, int) else None
    if sibling.lfs and _HASH.fullmatch(sha256 := str(sibling.lfs.sha256)):
        return HubFile(name, size, sha256, "SHA-256")
    if size is not None and not sibling.lfs and _HASH.fullmatch(str(sibling.blob_id)):
        return HubFile(name, size, sibling.blob_id, "git hash")
    # Never what the server calls it (ETag): that may be a path, or the same for two files.
    own = hashlib.sha256(f"{commit}/{name}".encode()).hexdigest()
    return HubFile(name, size, own, None)
