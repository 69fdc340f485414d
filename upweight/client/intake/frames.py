"""pandas DataFrames: feature columns become one matrix `x`, as models take it; their names go along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.client.intake.classes import Classes
from upweight.client.intake.ids import usual_ids
from upweight.client.intake.stream import Incoming, columns_of, whole
from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_frame(data: Any) -> bool:
    """Whether it is a DataFrame; pandas is not imported here."""
    return type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns")


def from_frame(
    frame: Any,
    inputs: Sequence[str] | str | None,
    targets: Sequence[str] | str | None,
    class_names: Sequence[str],
) -> Incoming:
    """`targets`: a name gives (rows,), a list of names gives a matrix `y` of (rows, names); `inputs`: the others."""
    names = [str(name) for name in frame.columns]
    frame = frame.set_axis(names, axis="columns")
    if targets is None and "y" not in names:
        raise InvalidRequest(
            f"which column is the target? Give targets='…' (or targets=() for none); the columns are {names}"
        )
    targets = "y" if targets is None else targets
    wanted = [targets] if isinstance(targets, str) else list(targets)
    given = [inputs] if isinstance(inputs, str) else inputs
    features = [name for name in names if name not in wanted] if given is None else list(given)
    _refuse_unknown([*features, *wanted], names)
    if not features:
        raise InvalidRequest("all columns are targets; a dataset needs inputs")
    columns: dict[str, Any] = {"x": np.column_stack([_numbers(frame, name) for name in features])}
    kept = {"x": tuple(features)}
    found: tuple[str, ...] = ()
    if isinstance(targets, str):
        columns[targets if targets != "x" else "y"], found = _target(frame, targets, class_names)
    elif wanted:
        columns["y"] = np.column_stack([_numbers(frame, name) for name in wanted])
        kept["y"] = tuple(wanted)
    return replace(
        whole(columns_of(columns)),
        inputs=("x",),
        targets=tuple(name for name in columns if name != "x"),
        preview={"kind": "table", "column": "x", "names": tuple(features)},
        class_names=found,
        features=kept,
        ids=usual_ids(frame.index),
    )


def with_features(arrays: Mapping[str, Any], classes: Classes) -> Incoming:
    """Columns by name; one that is a frame is a matrix whose features have the frame's names."""
    features = {
        str(name): tuple(str(each) for each in value.columns)
        for name, value in arrays.items()
        if is_frame(value)
    }
    named = {name: _matrix(value) if is_frame(value) else value for name, value in arrays.items()}
    frames = [value for value in arrays.values() if is_frame(value)]
    ids = usual_ids(frames[0].index) if frames else None
    found = replace(whole(columns_of(named, classes)), features=features, ids=ids)
    shown = next((name for name in features if name not in classes.targets), None)
    if shown is None:
        return found
    return replace(found, preview={"kind": "table", "column": shown, "names": features[shown]})


def joined(frames: Sequence[Any]) -> Any:
    """Several frames with the same columns as one, by name. Raises InvalidRequest."""
    import pandas as pd  # type: ignore[import-untyped]

    first = [str(name) for name in frames[0].columns]
    for at, frame in enumerate(frames):
        names = [str(name) for name in frame.columns]
        if sorted(names) != sorted(first):
            raise InvalidRequest(
                f"the columns of frame {at} are {names}, those of frame 0 {first}; all need the same"
            )
    return pd.concat([frame.set_axis(map(str, frame.columns), axis="columns") for frame in frames])


def _matrix(frame: Any) -> NDArray[Any]:
    """The frame's numbers in the type that they have in common; words and missing values are refused by column."""
    names = [str(name) for name in frame.columns]
    _refuse_unknown(names, names)
    kinds = {getattr(dtype, "kind", "O") for dtype in frame.dtypes}
    values = frame.to_numpy()
    if len(kinds) == 1 and kinds <= set("iuf") and values.dtype.kind in "iuf":
        for name in frame.columns:
            _refuse_missing(frame[name], str(name))
        return np.asarray(values)
    renamed = frame.set_axis(names, axis="columns")
    return np.column_stack([_numbers(renamed, name) for name in names])


def _refuse_unknown(wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise InvalidRequest(f"there is no column {name!r}; the columns are {list(names)}")
        if list(names).count(name) > 1:
            raise InvalidRequest(f"the frame has several columns {name!r}; rename them")


def _numbers(frame: Any, name: str) -> NDArray[Any]:
    """A column as floating-point numbers: float32 stays, all else is float64."""
    column = frame[name]
    _refuse_missing(column, name)
    try:
        values = column.to_numpy()
        return np.asarray(values, values.dtype if values.dtype == np.float32 else np.float64)
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"column {name!r} holds {column.dtype}, not numbers: name it "
            "in 'metadata', 'ids' or 'targets', or make numbers of it (pandas.get_dummies)"
        ) from None


def _target(
    frame: Any, name: str, class_names: Sequence[str]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Numbers as they are; categories and words as class numbers, with the classes' names."""
    column = frame[name]
    _refuse_missing(column, name)
    if hasattr(column, "cat") and not class_names:
        return column.cat.codes.to_numpy(np.int64), tuple(str(c) for c in column.cat.categories)
    if getattr(column.dtype, "kind", "O") in "iufb":
        return column.to_numpy(column.dtype.name.lower()), ()
    return Classes((name,), class_names).numbers(name, column), ()


def _refuse_missing(column: Any, name: str) -> None:
    missing = int(column.isna().sum())
    if missing:
        raise InvalidRequest(
            f"column {name!r} has {missing} missing values; fill them (frame.fillna) or drop the rows"
        )
