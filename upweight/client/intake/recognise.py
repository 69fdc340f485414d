"""Which kind of thing a caller has given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from upweight.client.intake.classes import Classes
from upweight.client.intake.frames import from_frame, is_frame, joined, with_features
from upweight.client.intake.rows import batches_of_rows, batches_of_table, items
from upweight.client.intake.stream import Incoming, columns_of, streamed, whole
from upweight.client.intake.torch_data import from_dataset, from_loader, is_dataset, is_loader
from upweight.errors import InvalidRequest

Metadata = Mapping[str, Any] | Sequence[str] | str
TAKEN = (
    "arrays by name (x=…, y=…), a dict of them, pandas DataFrames, a torch Dataset or DataLoader, rows as dicts "
    "or tuples, or paths of files"
)


def incoming(
    data: Any,
    arrays: Mapping[str, Any],
    inputs: Sequence[str] | str | None,
    targets: Sequence[str] | str | None,
    class_names: Sequence[str],
    ids: Any = None,
    metadata: Metadata = (),
) -> Incoming:
    """The columns of whatever it is, and the ids and metadata of its rows where it has some. Raises InvalidRequest.

    `ids`: one a row, or the name of their column. `metadata`: names of columns, or columns by name.
    """
    if isinstance(ids, str):
        data, arrays, ids = _taken_out(ids, data, arrays, "ids")
    beside = dict(metadata) if isinstance(metadata, Mapping) else {}
    for name in () if isinstance(metadata, Mapping) else _tuple(metadata):
        data, arrays, beside[name] = _taken_out(name, data, arrays, "metadata")
    found = replace(_incoming(data, arrays, inputs, targets, class_names), metadata=beside)
    return found if ids is None else replace(found, ids=ids)


def _taken_out(
    name: str, data: Any, arrays: Mapping[str, Any], what: str
) -> tuple[Any, Mapping[str, Any], Any]:
    """Data without a column that no model sees, and the column."""
    if name in arrays:
        return data, {each: value for each, value in arrays.items() if each != name}, arrays[name]
    if isinstance(data, Mapping) and name in data:
        return {each: value for each, value in data.items() if each != name}, arrays, data[name]
    if isinstance(data, list | tuple) and data and all(map(is_frame, data)):
        data = joined(data)
    if is_frame(data) and name in list(map(str, data.columns)):
        named = data.set_axis(list(map(str, data.columns)), axis="columns")
        return named.drop(columns=[name]), arrays, named[name]
    if hasattr(data, "column_names") and name in data.column_names:
        column = data[name]
        # Of one that streams it is gone through.
        return (
            data.remove_columns([name]),
            arrays,
            column[:] if hasattr(column, "__len__") else list(column),
        )
    if isinstance(data, list) and data and all(isinstance(r, Mapping) and name in r for r in data):
        rest = [{key: value for key, value in row.items() if key != name} for row in data]
        return rest, arrays, [row[name] for row in data]
    instead = "one id for each row" if what == "ids" else f"it as metadata={{{name!r}: values}}"
    raise InvalidRequest.field(f"/{what}", f"there is no column {name!r}; give {instead}", name)


def _incoming(
    data: Any,
    arrays: Mapping[str, Any],
    inputs: Sequence[str] | str | None,
    targets: Sequence[str] | str | None,
    class_names: Sequence[str],
) -> Incoming:
    classes = Classes.of(targets, class_names)
    _refuse_splits(data)
    if data is None or isinstance(data, Mapping):
        return with_features({**(data or {}), **arrays}, classes)
    if arrays:
        raise InvalidRequest(
            f"columns are given twice: as {type(data).__name__} and as {', '.join(arrays)}; give one of them"
        )
    names = (*_tuple(inputs), *_tuple(targets))
    if isinstance(data, list | tuple) and data and all(map(is_frame, data)):
        data = joined(data)
    if is_frame(data):
        return from_frame(data, inputs, targets, class_names)
    if is_loader(data):
        return from_loader(data, names, classes)
    if is_dataset(data):
        return from_dataset(data, names, classes)
    if hasattr(data, "column_names"):
        rows = batches_of_table(data) if hasattr(data, "__len__") else batches_of_rows(data, names)
        return replace(streamed(rows, classes), class_names=_classes_of(data, classes))
    if hasattr(data, "dtype") and hasattr(data, "shape"):
        return whole(columns_of({"x": data}))
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise InvalidRequest(f"{type(data).__name__} is no dataset; give {TAKEN}")
    return streamed(batches_of_rows(items(data), names), classes)


def _refuse_splits(data: Any) -> None:
    """Raises InvalidRequest for a DatasetDict of Hugging Face's."""
    if (
        isinstance(data, Mapping)
        and data
        and all(hasattr(e, "column_names") for e in data.values())
    ):
        first = next(iter(data))
        raise InvalidRequest(
            f"it has the splits {', '.join(map(str, data))}, each a dataset of its own: give one of them, as in "
            f"data[{first!r}]"
        )


def _classes_of(table: Any, classes: Classes) -> tuple[str, ...]:
    """The names that a ClassLabel of Hugging Face's has for the one target, in the order of its numbers."""
    features = getattr(table, "features", None) or {}
    found = [getattr(features.get(name), "names", None) for name in classes.targets]
    return tuple(map(str, found[0])) if len(found) == 1 and found[0] else ()


def _tuple(names: Sequence[str] | str | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
