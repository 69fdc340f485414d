"""Deriving a dataset from another: without some rows, with other labels. The shards stay where they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from service.auth import Caller
from service.datasets.names import RowNames
from service.datasets.registration import digest_of_shards
from service.datasets.views import Array, TooManyRuns, View, runs_of, view_of
from service.lifecycle.states import now
from service.parts import Parts
from service.registry import (
    digest_of,
    ensure_check,
    enter,
    refuse_many_checks,
    repeated,
    require_ready,
    resolve,
)
from service.requests import Trace
from service.storage.keys import Document, new_id
from service.storage.layout import blob_path
from service.storage.records import Idempotency
from upweight.errors import InvalidRequest, UpweightError
from upweight.field_errors import pointer_step
from upweight.schema import (
    CheckState,
    ColumnSpec,
    DatasetRecord,
    DerivedFrom,
    DeriveRequest,
    parse_rows,
)
from upweight.schema.base import CONTRACT

Label = bool | int | float | str


def derive_dataset(
    parts: Parts,
    caller: Caller,
    reference: str,
    request: DeriveRequest,
    idempotency: Idempotency | None,
    trace: Trace,
) -> Document:
    """A new record in state `checking`. Raises NotFound, NotReady, InvalidRequest, QuotaExceeded, RateLimited."""
    namespace = caller.namespace
    earlier = repeated(parts, "dataset", namespace, idempotency)
    if earlier is not None:
        ensure_check(parts, "dataset", namespace, earlier, trace)
        return earlier
    refuse_many_checks(parts, namespace)
    found = resolve(parts, "dataset", namespace, reference, usable=True)
    require_ready("dataset", found, "path:reference", reference)
    parent = DatasetRecord.model_validate(found)
    before = view_of(parent, parts.objects, namespace) or View.whole(
        parent.rows or 0, _label_dtype(parent)
    )
    listed = () if request.drop is None or isinstance(request.drop, str) else request.drop
    names = RowNames.of(parts, namespace, parent, listed, request.relabel)
    after = _derived(parent, before, request, names)
    index, size = _stored(parts, namespace, after)
    derived = DerivedFrom(
        dataset=parent.id,
        dropped=len(before) - len(after),
        relabelled=len(request.relabel),
        index=index,
    )
    document = {
        **parent.model_dump(mode="json"),
        "id": new_id("dataset"),
        "name": request.name,
        "version": parts.records.next_version("dataset", namespace, request.name),
        "state": CheckState.CHECKING,
        "created_at": now(),
        "checked_at": None,
        "labels": dict(request.labels),
        "digest": digest_of([digest_of_shards(parent), index]),
        "rows": len(after),
        "size_bytes": size,
        "derived_from": derived,
        "used_by": [],
        "contract": CONTRACT,
    }
    document = DatasetRecord.model_validate(document).model_dump(mode="json")
    return enter(
        parts, "dataset", caller, document, idempotency, trace, requires=[("dataset", parent.id)]
    )


def _derived(parent: DatasetRecord, before: View, request: DeriveRequest, names: RowNames) -> View:
    dropped = _dropped(parent, request, names)
    rows, labels = _relabelled(parent, before, request.relabel, names)
    try:
        starts, stops = runs_of(dropped)
        _refuse_both(starts, stops, rows, request, names)
        after = before.with_labels(rows, labels).without(starts, stops)
    except TooManyRuns as error:
        raise InvalidRequest.field(
            "/drop",
            f"{error}; register the rows that stay as a dataset of their own",
            None,
        ) from None
    if not len(after):
        raise InvalidRequest.field(
            "/drop",
            f"drops all {len(before)} rows of {parent.name!r}; a dataset needs one at least",
            None,
        )
    return after


def _dropped(parent: DatasetRecord, request: DeriveRequest, names: RowNames) -> Sequence[range]:
    """Rows of the parent that are to go."""
    if request.drop is None:
        return ()
    if isinstance(request.drop, str):
        try:
            return parse_rows(request.drop, parent.rows or 0).parts
        except ValueError as error:
            raise InvalidRequest.field("/drop", str(error), request.drop) from None
    rows = [names.id_or_number(name, f"/drop/{at}") for at, name in enumerate(request.drop)]
    return [range(row, row + 1) for row in rows]


def _relabelled(
    parent: DatasetRecord, before: View, relabel: Mapping[str, Label], names: RowNames
) -> tuple[Array, Array]:
    """Rows of the parent, ascending, and their new labels."""
    if not relabel:
        return np.empty(0, np.int64), before.labels[:0]
    target = _target(parent)
    chosen: dict[int, Label] = {}
    for name, label in relabel.items():
        pointer = f"/relabel/{pointer_step(name)}"
        row = names.row_of_key(name, pointer)
        if row in chosen:
            raise InvalidRequest.field(pointer, f"row {row} is named twice; name it once", name)
        chosen[row] = _label(parent, target, label, pointer)
    rows = np.array(sorted(chosen), np.int64)
    return rows, np.array([chosen[int(row)] for row in rows], np.dtype(target.dtype))


def _target(parent: DatasetRecord) -> ColumnSpec:
    """The column of labels, one number a row, be it by itself or in an axis of one. Raises InvalidRequest."""
    if len(parent.targets) != 1:
        told = "no target" if not parent.targets else f"{len(parent.targets)} targets"
        raise InvalidRequest.field(
            "/relabel",
            f"dataset {parent.name!r} has {told}; labels can be replaced where there is one",
            None,
        )
    target = next(each for each in parent.columns if each.name == parent.targets[0])
    if any(size != 1 for size in target.shape):
        raise InvalidRequest.field(
            "/relabel",
            f"a label of {parent.name!r} is an array of shape {list(target.shape)}; only single numbers can be "
            "replaced: register the rows with their new labels as a dataset of their own",
            None,
        )
    return target


def _label_dtype(parent: DatasetRecord) -> np.dtype[np.generic]:
    """Of the labels that a view may replace; any where it can't replace them."""
    specs = {each.name: each for each in parent.columns}
    one = len(parent.targets) == 1
    return np.dtype(specs[parent.targets[0]].dtype) if one else np.dtype(np.float64)


def _label(parent: DatasetRecord, target: ColumnSpec, label: Label, pointer: str) -> Label:
    """As the column stores it. Raises InvalidRequest for what no row of it can have."""
    number = _class_number(parent, label, pointer)
    dtype = np.dtype(target.dtype)
    if dtype.kind == "f":
        return _expected_number(dtype, number, pointer)
    if isinstance(number, float) and not number.is_integer():
        raise InvalidRequest.field(pointer, f"labels of {parent.name!r} are whole numbers", label)
    low, high, why = _range(parent, target)
    if not low <= number <= high:
        raise InvalidRequest.field(
            pointer,
            f"{label} is no label of {parent.name!r}: they go from {low} to {high}{why}",
            label,
        )
    return int(number)


def _class_number(parent: DatasetRecord, label: Label, pointer: str) -> int | float:
    if not isinstance(label, str):
        return label
    if label in parent.class_names:
        return parent.class_names.index(label)
    known = (
        f"its classes are {', '.join(parent.class_names[:20])}"
        if parent.class_names
        else ("its classes have no names; give a number")
    )
    raise InvalidRequest.field(pointer, f"{label!r} is no class of {parent.name!r}; {known}", label)


def _expected_number(dtype: np.dtype[np.generic], number: float, pointer: str) -> float:
    limit = float(np.finfo(dtype).max)  # type: ignore[type-var]
    if not math.isfinite(number) or abs(number) > limit:
        raise InvalidRequest.field(pointer, f"{number} is no finite number of {dtype}", None)
    return float(number)


def _range(parent: DatasetRecord, target: ColumnSpec) -> tuple[int, int, str]:
    """The labels there are, and how there can be more."""
    if parent.class_names:
        return 0, len(parent.class_names) - 1, ", as 'class_names' has it"
    low, high = int(target.minimum or 0), int(target.maximum or 0)
    return low, high, "; to have a class that no row has, register it with 'class_names'"


def _refuse_both(
    starts: Array, stops: Array, rows: Array, request: DeriveRequest, names: RowNames
) -> None:
    """Raises InvalidRequest for a row that is dropped and relabelled."""
    if not len(starts):
        return
    runs = np.searchsorted(starts, rows, side="right") - 1
    both = rows[(runs >= 0) & (rows < stops[runs])]
    if len(both):
        name = next(key for key in request.relabel if names.row_of_key(key, "") == both[0])
        raise InvalidRequest.field(
            f"/relabel/{pointer_step(name)}",
            f"row {name} is dropped and relabelled; do one of both",
            request.relabel[name],
        )


def _stored(parts: Parts, namespace: str, view: View) -> tuple[str, int]:
    """Stores a view as a blob; its digest and bytes. Raises QuotaExceeded."""
    data = view.encoded()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    path = blob_path(namespace, digest)
    if parts.objects.head(path) is not None:
        return digest, len(data)
    reservation = parts.quota.reserve(namespace, len(data))
    try:
        parts.objects.put_new(path, data)
    except UpweightError:
        reservation.give_back()
        raise
    reservation.settle(len(data))
    return digest, len(data)
