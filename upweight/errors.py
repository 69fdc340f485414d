"""One way to fail: an exception carries its problem type, status and words.

The same class is raised in the service and the workers, becomes the HTTP answer and the job's error, and is what
the SDK raises again at the user's side.

    UpweightError
    ├── InvalidRequest           422  invalid-request: fields that are wrong
    │   ├── DigestMismatch       422  digest-mismatch
    │   ├── IdempotencyConflict  422  idempotency-conflict
    │   └── ResultTooLarge       422  result-too-large
    ├── Unauthorized             401  unauthorized
    ├── Forbidden                403  forbidden: the key's role does not allow it
    ├── NotFound                 404  not-found
    │   └── NotStored            404  not-stored: the job did not keep that
    ├── MethodNotAllowed         405  method-not-allowed
    ├── NotAcceptable            406  not-acceptable
    ├── Conflict                 409  conflict
    │   ├── InUse                409  in-use
    │   ├── NotReady             409  not-ready: model or dataset still checked, or rejected
    │   └── RequestInProgress    409  request-in-progress
    ├── ResultExpired            410  result-expired: retention has deleted it
    ├── LengthRequired           411  length-required
    ├── TooLarge                 413  too-large
    ├── UnsupportedMediaType     415  unsupported-media-type
    ├── RangeNotSatisfiable      416  range-not-satisfiable
    ├── ResultNotReady           425  result-not-ready
    ├── QueueFull                429  queue-full
    ├── RateLimited              429  rate-limited: more requests or uploads at once than a namespace may make
    ├── QuotaExceeded            403  quota-exceeded: the namespace stores as much as it may
    ├── HeadTooLarge             431  head-too-large: address and headers are longer than the limit
    ├── InternalError            500  internal-error
    ├── Unavailable              503  unavailable: Redis or the object storage does not answer
    ├── Rejected                 422  rejected: a worker's check of a model or dataset failed
    ├── ComputationFailed        422  computation-failed: the numbers do not allow it (singular Hessian, divergence)
    ├── TimedOut                 408  timed-out: the job's time was up
    └── WorkerLost               500  worker-lost: its worker died, as often as tries are allowed

On the user's side alone, with status 0: ConnectionFailed (`transport.py`), UnexpectedAnswer (`exchange.py`),
WaitTimedOut (`waiting.py`), JobCancelled (`tracking.py`), ExportFailed (`export.py`), MissingPackage (`extras.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from upweight.schema.problem import FieldError, Problem, Progress


class UpweightError(Exception):
    """Something went wrong that we have words for."""

    type = "internal-error"
    title = "Something went wrong on our side"
    status = 500

    def __init__(
        self,
        detail: str,
        *,
        errors: Iterable[FieldError] = (),
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.retry_after = retry_after
        self.request_id = request_id

    def problem(self, request_id: str | None = None) -> Problem:
        """This error as a problem document."""
        return Problem(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
            request_id=request_id or self.request_id,
        )

    @classmethod
    def field(
        cls, pointer: str, detail: str, value: object = None, suggestion: float | None = None
    ) -> UpweightError:
        """An error of this class about one field; the value is shown shortened. `suggestion`: one that would do."""
        about = FieldError(
            pointer=pointer, detail=detail, value=shown(value), suggestion=suggestion
        )
        return cls(detail, errors=[about])


def shown(value: object, limit: int = 200) -> str | int | float | bool | None:
    """A value as an error message may show it: scalars as they are, the rest as shortened text."""
    if value is None or (isinstance(value, bool | int) and abs(value) < 2**53):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class InvalidRequest(UpweightError):
    type, title, status = "invalid-request", "The request is not valid", 422


class DigestMismatch(InvalidRequest):
    type, title = "digest-mismatch", "The bytes do not have the digest they were sent under"


class IdempotencyConflict(InvalidRequest):
    type, title = "idempotency-conflict", "The idempotency key was used with another request"


class ResultTooLarge(InvalidRequest):
    type, title = "result-too-large", "The result would be larger than the limit"


class Rejected(InvalidRequest):
    type, title = "rejected", "The check failed"


class ComputationFailed(InvalidRequest):
    type, title = "computation-failed", "The numbers do not allow this computation"


class Unauthorized(UpweightError):
    type, title, status = "unauthorized", "A valid key is needed", 401


class Forbidden(UpweightError):
    type, title, status = "forbidden", "The key's role does not allow this", 403


class NotFound(UpweightError):
    type, title, status = "not-found", "There is no such thing", 404


class NotStored(NotFound):
    type, title = "not-stored", "The job did not store this"


class MethodNotAllowed(UpweightError):
    type, title, status = "method-not-allowed", "This address does not take that method", 405


class NotAcceptable(UpweightError):
    type, title, status = "not-acceptable", "No such format is offered here", 406


class TimedOut(UpweightError):
    type, title, status = "timed-out", "The job's time was up", 408


class Conflict(UpweightError):
    type, title, status = "conflict", "The present state does not allow this", 409


class InUse(Conflict):
    type, title = "in-use", "Something still uses it"


class NotReady(Conflict):
    type, title = "not-ready", "A model or dataset is not ready"


class RequestInProgress(Conflict):
    type, title = "request-in-progress", "The same request is still being worked on"


class ResultExpired(UpweightError):
    type, title, status = "result-expired", "The result has expired", 410


class LengthRequired(UpweightError):
    type, title, status = "length-required", "The length must be given", 411


class TooLarge(UpweightError):
    type, title, status = "too-large", "The body is larger than the limit", 413


class UnsupportedMediaType(UpweightError):
    type, title, status = (
        "unsupported-media-type",
        "The body has another type than is taken here",
        415,
    )


class RangeNotSatisfiable(UpweightError):
    type, title, status = "range-not-satisfiable", "The range lies outside", 416


class ResultNotReady(UpweightError):
    """`progress` is that of a running job, whose finished blocks can be read."""

    type, title, status = "result-not-ready", "The result is not there yet", 425
    progress: Progress | None = None

    def problem(self, request_id: str | None = None) -> Problem:
        """With the progress."""
        return super().problem(request_id).model_copy(update={"progress": self.progress})


class QueueFull(UpweightError):
    type, title, status = "queue-full", "The queue is full", 429


class RateLimited(UpweightError):
    type, title, status = "rate-limited", "Too many requests of this namespace", 429


class QuotaExceeded(Forbidden):
    type, title, status = "quota-exceeded", "The namespace stores as much as it may", 403


class HeadTooLarge(UpweightError):
    type, title, status = "head-too-large", "The address and headers are longer than the limit", 431


class InternalError(UpweightError):
    pass


class WorkerLost(UpweightError):
    type, title = "worker-lost", "The worker died each time it tried"


class Unavailable(UpweightError):
    type, title, status = "unavailable", "A part of the service does not answer", 503


def error_classes() -> dict[str, type[UpweightError]]:
    """Every class by its problem type."""
    found: dict[str, type[UpweightError]] = {}
    pending: list[type[UpweightError]] = [UpweightError]
    while pending:
        cls = pending.pop()
        found.setdefault(cls.type, cls)
        pending.extend(cls.__subclasses__())
    return found


def error_from(problem: Problem, retry_after: float | None = None) -> UpweightError:
    """The exception that a problem document stands for; an unknown type becomes the nearest by status."""
    classes = error_classes()
    cls = classes.get(problem.type)
    if cls is None:
        same = [known for known in classes.values() if known.status == problem.status]
        cls = min(same, key=lambda known: len(known.__mro__), default=UpweightError)
    error = cls(
        problem.detail,
        errors=problem.errors,
        retry_after=retry_after,
        request_id=problem.request_id,
    )
    error.status = problem.status
    if isinstance(error, ResultNotReady):
        error.progress = problem.progress
    return error
