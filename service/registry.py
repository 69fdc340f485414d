"""What resources share: looked up by id or reference, listed, waited for; models and datasets are checked as well."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from service.auth import Caller
from service.dependencies import Paging
from service.parts import Parts
from service.requests import Trace
from service.storage import keys
from service.storage.keys import Document, Kind
from service.storage.queue import CHECK_PRIORITY, CHECKS
from service.storage.records import Idempotency, Room, not_found
from upweight.errors import InvalidRequest, NotReady, RateLimited
from upweight.schema import CheckState
from upweight.schema.base import REFERENCE_PATTERN

STRIDE = 200  # records that are read at once where something is looked for in them
MOST_LOOKED_AT = 4_000  # of one request


def digest_of(parts: Any) -> str:
    """The digest of all that decides results, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def resolve(
    parts: Parts, kind: Kind, namespace: str, reference: str, *, usable: bool = False
) -> Document:
    """The record that a reference means. Raises NotFound.

    `usable`: a name without a version means its newest version that was not rejected, where there is one.
    """
    if not re.fullmatch(REFERENCE_PATTERN, reference):
        raise not_found(kind, reference)
    return parts.records.resolve(kind, namespace, reference, usable=usable)


def find_job(parts: Parts, namespace: str, id: str) -> Document:
    """A job's record. Raises NotFound."""
    if not keys.is_id("job", id):
        raise not_found("job", id)
    return parts.records.get("job", namespace, id)


def require_ready(kind: Kind, found: Document, pointer: str, reference: str) -> None:
    """Raises NotReady, at a field of the request, for a model or dataset that is not checked or was rejected."""
    if found["state"] == CheckState.READY:
        return
    name = f"{kind} {found['name']}@{found['version']}"
    if found["state"] == CheckState.CHECKING:
        error = NotReady.field(
            pointer,
            f"{name} is still being checked; GET /v1/{kind}s/{found['id']}?wait=60 holds until it is",
            reference,
        )
        error.retry_after = 1
        raise error
    reason = (found.get("problem") or {}).get("detail", "its check failed")
    raise NotReady.field(pointer, f"{name} was rejected: {reason}", reference)


async def settled(
    parts: Parts, kind: Kind, namespace: str, reference: str, seconds: float
) -> Document:
    """The record that a reference means, with the jobs that hold it; held until it is checked. Raises NotFound."""

    def read(id: str) -> Document:
        users = parts.records.users(kind, namespace, id)
        return {**parts.records.get(kind, namespace, id), "used_by": users}

    found = await run_in_threadpool(resolve, parts, kind, namespace, reference)
    return await parts.changes.until(
        kind,
        namespace,
        found["id"],
        lambda: read(found["id"]),
        done=lambda document: document["state"] != CheckState.CHECKING,
        seconds=seconds,
    )


def repeated(
    parts: Parts, kind: Kind, namespace: str, idempotency: Idempotency | None
) -> Document | None:
    """What an earlier request with this key made. Raises IdempotencyConflict, NotFound."""
    id = parts.records.made_by(kind, namespace, idempotency) if idempotency else None
    return parts.records.get(kind, namespace, id) if id is not None else None


def refuse_many_checks(parts: Parts, namespace: str) -> None:
    """Raises RateLimited where a namespace has as many unfinished checks as it may: all share one queue."""
    unfinished = sum(
        parts.records.count(kind, namespace, CheckState.CHECKING) for kind in ("model", "dataset")
    )
    if unfinished >= parts.settings.namespace_checks:
        raise _many_checks(parts, unfinished)


def _many_checks(parts: Parts, unfinished: int) -> RateLimited:
    limit = parts.settings.namespace_checks
    return RateLimited(
        f"{unfinished} models and datasets of this namespace are being checked, and {limit} may be; wait for some",
        retry_after=2,
    )


def enter(
    parts: Parts,
    kind: Kind,
    caller: Caller,
    document: Document,
    idempotency: Idempotency | None,
    trace: Trace,
    requires: Sequence[tuple[Kind, str]] = (),
) -> Document:
    """Writes a new record and has it checked by a worker. Raises RateLimited, also where many come at once, and
    NotFound when a record in `requires` has gone.
    """
    room = Room(
        [
            keys.state_index(each, caller.namespace, CheckState.CHECKING)
            for each in ("model", "dataset")
        ],
        parts.settings.namespace_checks,
        partial(_many_checks, parts),
    )
    id, made = parts.records.create(
        kind,
        caller.namespace,
        document,
        idempotency=idempotency,
        requires=requires,
        room=room,
    )
    stored = parts.records.get(kind, caller.namespace, id)
    if not made:
        ensure_check(parts, kind, caller.namespace, stored, trace)
        return stored
    task = CHECKS[kind]
    parts.queue.enqueue_made(task, caller.namespace, id, priority=CHECK_PRIORITY, trace=str(trace))
    parts.copies.secure(kind, caller.namespace, id)
    return stored


def ensure_check(
    parts: Parts, kind: Kind, namespace: str, document: Document, trace: Trace
) -> None:
    """Enqueues the check of a record that waits for one: also when an earlier try died before it could."""
    id = document["id"]
    if document["state"] != CheckState.CHECKING:
        return
    if parts.queue.position(id, 0, CHECK_PRIORITY) is None:
        parts.queue.enqueue(CHECKS[kind], namespace, id, priority=CHECK_PRIORITY, trace=str(trace))


def delete_checked(parts: Parts, kind: Kind, namespace: str, reference: str) -> None:
    """Deletes a model or dataset that no job uses; a check of it ends. Raises NotFound, InUse."""
    found = resolve(parts, kind, namespace, reference)
    parts.records.delete(kind, namespace, found["id"])
    if found["state"] == CheckState.CHECKING:
        # One that runs sees that the record has gone.
        parts.queue.remove(found["id"], 0, CHECK_PRIORITY)
    parts.copies.secure(kind, namespace, found["id"])


def filters_of(
    *, name: str | None = None, state: str | None = None, labels: Sequence[str] = ()
) -> list[str]:
    """The indexes that a list is narrowed by. Raises InvalidRequest for a label without '='."""
    found = [keys.by_name(name)] if name is not None else []
    if state is not None:
        found.append(keys.by_state(state))
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            raise InvalidRequest.field(
                "query:label", "write a label filter as key=value: label=team=vision", label
            )
        found.append(keys.by_label(key, value))
    return found


def searched_page(
    parts: Parts,
    kind: Kind,
    namespace: str,
    paging: Paging,
    filters: Sequence[str],
    wanted: Callable[[Document], bool],
) -> dict[str, Any]:
    """A page of those records that are wanted, from at most so many that are looked at. Raises InvalidRequest."""
    found: list[Document] = []
    after, looked = paging.after, 0
    while looked < MOST_LOOKED_AT:
        page = page_of(parts, kind, namespace, replace(paging, limit=STRIDE, after=after), filters)
        for item in page["items"]:
            after = item["id"]
            if wanted(item):
                found.append(item)
            if len(found) == paging.limit:
                return {"items": found, "has_more": True, "next_after": after}
        looked += STRIDE
        after = page["next_after"]
        if not page["has_more"]:
            return {"items": found, "has_more": False, "next_after": None}
    return {"items": found, "has_more": True, "next_after": after}


def page_of(
    parts: Parts, kind: Kind, namespace: str, paging: Paging, filters: Sequence[str]
) -> dict[str, Any]:
    """One page of records, as `Page` says. Raises InvalidRequest for an `after` that is no id of the kind."""
    if paging.after is not None and not keys.is_id(kind, paging.after):
        raise InvalidRequest.field(
            "query:after", f"give 'next_after' of the page before: an id of a {kind}", paging.after
        )
    found = parts.records.page(
        kind,
        namespace,
        limit=paging.limit,
        after=paging.after,
        newest_first=paging.newest_first,
        filters=filters,
    )
    return {
        "items": parts.records.get_many(kind, namespace, found.ids),
        "has_more": found.has_more,
        "next_after": found.ids[-1] if found.has_more else None,
    }
