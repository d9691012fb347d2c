"""Why a model can't be fetched, in words that say what to do."""

import errno
from http import HTTPStatus

from vgate.config.models.names import hub_endpoint, nearby

_NOT_THERE = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND})
# A try later would end the same.
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class HubError(Exception):
    """A model can't be fetched.

    Attributes:
        permanent: Another try would end the same.
        not_there: The Hub has no model of this name, or hides it.
    """

    def __init__(self, message: str, *, permanent: bool = False, not_there: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.not_there = not_there


def is_of_the_disk(error: BaseException) -> bool:
    """Whether the disk is the cause, and not the network."""
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


def status_of(error: BaseException) -> int:
    """Return the HTTP status that an error of the library stands for; 0 if it has none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def explained(error: Exception, name: str, revision: str | None) -> HubError:
    """Return what an error of the library, the network or the disk means for a model."""
    why = _permanent(error, name, revision)
    return HubError(
        f"cannot fetch the model {name}: {why or _for_now(error)}",
        permanent=why is not None,
        not_there=status_of(error) in _NOT_THERE and not _is_gated(error),
    )


def _is_gated(error: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError) or status_of(error) == HTTPStatus.FORBIDDEN


def _permanent(error: Exception, name: str, revision: str | None) -> str | None:
    """Return why it can't be had, and what to do; None if another try may help."""
    from huggingface_hub import errors

    where, status = hub_endpoint(), status_of(error)
    why = None
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = (
            "it is not in the cache, and HF_HUB_OFFLINE is set: unset it, or name a directory with "
            "the model"
        )
    elif _is_gated(error):
        why = (
            f"its licence has to be accepted first. Do that at {where}/{name}, then set HF_TOKEN "
            f"to a token of the same account ({where}/settings/tokens)"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"it has no branch, tag or commit {revision or 'main'}"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in _NOT_THERE:
        why = (
            f"{where} has no such model, or shows it to some only. Check the name{nearby(name)}; "
            f"for a private model set HF_TOKEN ({where}/settings/tokens)"
        )
    elif isinstance(error, errors.HFValidationError):
        why = f"this is no name on the Hub{nearby(name)}"
    elif isinstance(error, OSError) and is_of_the_disk(error):
        why = ": ".join(filter(None, [str(error.filename or ""), error.strerror]))
    return why


def _for_now(error: Exception) -> str:
    where, status = hub_endpoint(), status_of(error)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"{where} refuses more requests for now; try again later, or with HF_TOKEN set"
    reason = f"{where} answered {status}" if status else f"{where} can't be reached ({error})"
    return (
        f"{reason}. Check the network, or set HF_ENDPOINT to a mirror; what has come is kept, and "
        "another try goes on from there"
    )
