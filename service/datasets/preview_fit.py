"""Whether a preview fits the columns of its dataset, as the service asks at once and a worker once it has read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from upweight.schema import ColumnSpec, FieldError
from upweight.schema.base import first_repeated
from upweight.schema.dataset import ImagePreview, Preview, TablePreview, TextPreview


def unfit(
    preview: Preview, names: Sequence[str], columns: Sequence[ColumnSpec] = ()
) -> FieldError | None:
    """What is wrong with a preview of a dataset with columns of these names; their shapes once they are known."""
    if preview.column not in names:
        words = f"there is no input or target {preview.column!r}; there are {', '.join(names)}"
        return FieldError(pointer="/preview/column", detail=words, value=preview.column)
    column = next((each for each in columns if each.name == preview.column), None)
    match preview:
        case ImagePreview():
            return _unfit_image(preview, column)
        case TextPreview():
            return _unfit_text(column)
        case TablePreview():
            return _unfit_table(preview, column)


def _unfit_image(preview: ImagePreview, column: ColumnSpec | None) -> FieldError | None:
    value = None if preview.shape is None else str(list(preview.shape))
    if preview.shape is not None and min(preview.shape) < 1:
        words = "each size must be at least 1: (height, width) or (channels, height, width)"
        return FieldError(pointer="/preview/shape", detail=words, value=value)
    if not preview.minimum < preview.maximum:
        words = f"must be above minimum={preview.minimum:g}, which is drawn black; it is {preview.maximum:g}"
        return FieldError(pointer="/preview/maximum", detail=words, value=preview.maximum)
    if column is None:
        return None
    sizes = tuple(size or 0 for size in column.shape)
    pixels = preview.shape or sizes
    if len(pixels) in (2, 3) and math.prod(pixels) == math.prod(sizes):
        return None
    given = "without a shape" if preview.shape is None else f"of shape {preview.shape}"
    words = (
        f"a picture {given} does not fit: a row of {preview.column!r} has shape {sizes}; give (height, width) or "
        "(channels, height, width) with as many numbers"
    )
    return FieldError(pointer="/preview/shape", detail=words, value=value)


def _unfit_text(column: ColumnSpec | None) -> FieldError | None:
    if column is None or "int" in column.dtype:
        return None
    words = f"column {column.name!r} is {column.dtype}, and the tokens of a text are whole numbers; choose another kind"
    return FieldError(pointer="/preview/kind", detail=words, value="text")


def _unfit_table(preview: TablePreview, column: ColumnSpec | None) -> FieldError | None:
    names = preview.names
    twice = first_repeated(names)
    if twice is not None:
        return FieldError(pointer="/preview/names", detail=f"{twice!r} is there twice", value=twice)
    if column is None or not names:
        return None
    numbers = math.prod(size or 0 for size in column.shape)
    if len(names) <= numbers:  # the first of them have names, then
        return None
    has = "1 number" if numbers == 1 else f"{numbers} numbers"
    words = f"{len(names)} names are given, and a row of {column.name!r} has {has}; name each once"
    return FieldError(pointer="/preview/names", detail=words, value=len(names))
