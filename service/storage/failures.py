"""What the object storage answered when it failed, in words without addresses, keys or bodies."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from service.logs import log
from upweight.errors import Unavailable

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_KIND = re.compile(r"HttpError \{\s+kind: (\w+)")  # what the network did, by object_store's names
_PASSING = frozenset({"Timeout", "Connect", "Interrupted", "Request", "Decode"})
_SYSTEM = re.compile(r"message: \"([^\"]{1,100})\"|([A-Z][a-z][\w ,']{3,60} \(os error \d+\))")
_METADATA = "169.254.169.254"  # asked last for credentials, when no other place has them
_NOTED = 300  # characters
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
Result = TypeVar("Result")


class Changed(Exception):
    """The object is not the one that was asked for: it has been written anew since."""


@contextmanager
def translated(original: Sequence[BaseException] = ()) -> Iterator[None]:
    """Errors of the store become Unavailable; an error that a caller's own iterator raised is raised as it was."""
    try:
        yield
    except (FileNotFoundError, AlreadyExistsError):
        raise
    except PreconditionError:
        raise Changed from None
    except (BaseError, OSError) as error:
        if original:
            raise original[0] from None
        raise unavailable(error) from None


@contextmanager
def writing(original: Sequence[BaseException] = ()) -> Iterator[None]:
    """What a write finds missing is the bucket, or its own upload, which somebody has ended; what a caller's own
    iterator found missing is raised as it was."""
    try:
        yield
    except FileNotFoundError as error:
        if original:
            raise original[0] from None
        raise unavailable(error) from None


def unavailable(error: BaseException) -> Unavailable:
    """The error that a failure of the store becomes; the log has more of it."""
    log("storage-failed", level="warning", detail=_noted(error))
    return Unavailable(
        f"the object storage does not answer as it should: {reason(error)}", retry_after=5
    )


def persistently(action: Callable[[], Result], seconds: float) -> Result:
    """Repeats an action that may be done twice while the network fails.

    obstore does so too, but not after a connection was reset in the middle of a creation, a deletion or an answer.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while True:
        try:
            return action()
        except BaseError as error:
            if not _passing(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _passing(error: BaseError) -> bool:
    """Whether it was the network: a connection refused, reset, broken off or silent. An answer is no such thing."""
    kind = _KIND.search(str(error))
    return kind is not None and kind[1] in _PASSING


def reason(error: BaseException) -> str:
    """Why, for a user: an HTTP status with the server's code, the system's word, or that nobody answered."""
    message = str(error)
    if _METADATA in message:
        return "there are no credentials for it; set them where your cloud's own tools look, as in AWS_ACCESS_KEY_ID"
    if "BadScheme" in message:
        return "its endpoint is plain http, which is not allowed; see UPWEIGHT_STORAGE_ALLOW_HTTP"
    if "NoSuchBucket" in message:
        return "there is no such bucket; create it, or correct UPWEIGHT_STORAGE"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return f"it refuses access{_coded(message)}; its credentials or rights are wrong"
    if (status := _STATUS.search(message)) is not None:
        return f"it answers with status {status[1]}{_coded(message)}"
    if (kind := _KIND.search(message)) is not None and kind[1] == "Timeout":
        return "it did not answer in time"
    if (system := _SYSTEM.search(message)) is not None:
        return system[1] or system[2]
    if kind is not None and kind[1] in _PASSING:
        return "it can't be reached" if kind[1] == "Connect" else "it broke the connection off"
    return type(error).__name__


def _coded(message: str) -> str:
    code = _CODE.search(message)
    return f" ({code[1]})" if code else ""


def _noted(error: BaseException) -> str:
    """The first line for the log. Queries go: a signature or token may be one."""
    message = str(error).strip()
    first = message.splitlines()[0] if message else type(error).__name__
    return re.sub(r"\?\S+", "?…", first)[:_NOTED]
