"""Models and datasets alike: fetched, listed, and waited for while a worker checks them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from upweight.errors import InternalError, UpweightError, error_from
from upweight.http.flow import Call, Flow, segment
from upweight.http.polling import WaitTimedOut, left, paced
from upweight.progress import Bars
from upweight.schema import CheckState, DatasetRecord, ModelRecord

Record = TypeVar("Record", ModelRecord, DatasetRecord)


@dataclass(frozen=True)
class Checked(Generic[Record]):
    """A resource whose records are checked by a worker."""

    path: str
    record: type[Record]

    def get(self, reference: str, wait: float = 0.0) -> Flow[Record]:
        """The record; held for so many seconds while it is checked."""
        query = (("wait", f"{wait:g}"),) if wait else ()
        reply = yield Call("GET", f"{self.path}/{segment(reference)}", query)
        return reply.read(self.record)


def until_checked(
    resource: Checked[Record],
    reference: str,
    record: Record | None,
    bars: Bars,
    timeout: float | None,
    hold: float,
) -> Flow[Record]:
    """The record once it is ready; Rejected, with the worker's reason, if it is not to be."""
    deadline = None if timeout is None else time.monotonic() + timeout
    record = record or (yield from resource.get(reference))
    with bars.bar(f"checking {record.name}", unit="checks") as bar:
        while record.state == CheckState.CHECKING:
            bar.to(0, None)
            remaining = left(deadline)
            if remaining == 0:
                raise WaitTimedOut(
                    f"{record.name} ({record.id}) was still being checked after {timeout:g} seconds; "
                    "wait again, or see that a worker runs (/readyz)"
                )
            poll = resource.get(record.id, min(hold, remaining))
            record = yield from paced(poll, lambda now: now.state != CheckState.CHECKING)
    if record.state == CheckState.REJECTED:
        raise _refusal(record)
    return record


def _refusal(record: ModelRecord | DatasetRecord) -> UpweightError:
    if record.problem is None:
        return InternalError(f"{record.name} was rejected without a reason; see the worker's log")
    return error_from(record.problem)
