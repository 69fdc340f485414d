"""One row as its dataset's preview says: pixels for a picture, words for all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.schema import DatasetRecord, ImagePreview, TablePreview
from upweight.tokens import text_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


SHOWN = 4  # numbers of a row that is no picture
CHANNELS = (1, 3, 4)


def pixels(row: NDArray[Any], preview: ImagePreview) -> NDArray[np.uint8]:
    """(height, width) or (height, width, channels), from 0 to 255."""
    image = row.reshape(preview.shape or row.shape).astype(np.float64)
    if image.ndim == 3 and image.shape[0] in CHANNELS:
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    span = preview.maximum - preview.minimum or 1.0
    return np.clip((image - preview.minimum) / span * 255, 0, 255).astype(np.uint8)


def grey(picture: NDArray[np.uint8]) -> NDArray[Any]:
    """(height, width): the mean of the colours, without what is see-through."""
    return picture if picture.ndim == 2 else picture[..., :3].mean(-1)


def words(row: NDArray[Any], preview: Any, vocabulary: Sequence[str] | None = None) -> str:
    """The text of tokens that stand for words; else the first numbers, with their names where there are some."""
    if vocabulary is not None and row.dtype.kind in "iu":
        return text_of(row.ravel().tolist(), vocabulary)
    flat = row.ravel()[:SHOWN]
    names = preview.names if isinstance(preview, TablePreview) else ()
    numbers = [
        f"{names[at]} {value:.4g}" if at < len(names) else f"{value:.4g}"
        for at, value in enumerate(flat.tolist())
    ]
    return ", ".join([*numbers, *(["…"] if row.size > SHOWN else [])])


def label(value: Any, dataset: DatasetRecord) -> str:
    """A class's name, or the number."""
    number = np.asarray(value)
    if number.ndim:
        return words(number, None)
    if number.dtype.kind in "iu" and 0 <= int(number) < len(dataset.class_names):
        return dataset.class_names[int(number)]
    return f"{number.item():.4g}"
