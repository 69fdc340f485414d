"""What raising each feature of a training row does to a test row: the strongest rows of a perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
import upweight.results.labels as labels
import upweight.results.stored as stored
from upweight.http.flow import Flow
from upweight.progress import Bars
from upweight.results.pictures.examples import Example, hardest, itself, looks, predicted
from upweight.results.pictures.look import grey
from upweight.results.rows import record_of
from upweight.schema import DatasetRecord, ImagePreview, JobRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray


MOST_NUMBERS = 100_000  # that are fetched for a test row, to choose training rows among
SHOWN = 4  # training rows
# Of the heat map: positive influence is blue.
HELPS, HARMS = (33, 102, 172), (178, 24, 43)


@dataclass(frozen=True)
class Touched:
    """A training row, and a number for each of its features: positive where raising it lowers the test loss."""

    example: Example
    values: NDArray[Any]  # (height, width) over a picture, else (features,)
    names: tuple[str, ...]  # of features that are no pixels


@dataclass(frozen=True)
class FeaturePanel:
    """A test row, and the training rows whose features matter to it most, of those looked at."""

    test: Example
    rows: tuple[Touched, ...]
    looked_at: int
    of: int


def feature_panels(record: JobRecord, bars: Bars) -> Flow[list[FeaturePanel]]:
    """Of the test rows of the largest loss, those of the first training rows whose features matter most."""
    labels.refuse_groups(record)
    source = stored.influences(record)
    _, total, *shape = source.shape
    looked_at = min(total, max(1, MOST_NUMBERS // max(1, math.prod(shape))))
    train = yield from record_of(record.train_id)
    named = yield from labels.labelled(record, "influences")
    found = []
    positions = yield from hardest(record)
    for position in positions:
        values = yield from source.fetched((position, slice(0, looked_at)), bars)
        sizes = np.abs(values.reshape(looked_at, -1)).max(1)
        columns = np.argsort(-sizes, kind="stable")[:SHOWN]
        rows = named.axes[1].labels(columns).tolist()
        guesses = yield from predicted(record, "train", columns.tolist())
        shown = yield from looks(train, rows, guesses)
        touched = tuple(
            Touched(shown[row], *_laid_out(record, train, values[column]))
            for row, column in zip(rows, columns, strict=True)
        )
        focus = yield from itself(record, position)
        found.append(FeaturePanel(focus, touched, looked_at, total))
    return found


def _laid_out(
    record: JobRecord, dataset: DatasetRecord, values: NDArray[Any]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """As the pixels of the row's picture, or in a row with names."""
    preview: Any = dataset.preview
    request: Any = record.request
    floating = [
        each.name
        for each in dataset.columns
        if each.name in dataset.inputs and "float" in each.dtype
    ]
    column = request.perturb_input or next(iter(floating), dataset.inputs[0])
    at_input = request.perturb_at is None and preview is not None and preview.column == column
    if at_input and isinstance(preview, ImagePreview):
        image = values.reshape(preview.shape or values.shape)
        # Channels first: what they do together.
        return image.reshape(-1, *image.shape[-2:]).sum(0), ()
    given = tuple(getattr(preview, "names", ())) if at_input else ()
    name = request.perturb_at or column
    names = [given[at] if at < len(given) else f"{name}[{at}]" for at in range(values.size)]
    return values.reshape(-1), tuple(names)


def coloured(picture: NDArray[np.uint8], values: NDArray[Any]) -> NDArray[np.uint8]:
    """The picture in grey, (height, width, 3), under colours: the stronger a pixel's influence, the less grey."""
    weight = (np.abs(values) / (np.abs(values).max() or 1.0))[..., None]
    colour = np.where((values > 0)[..., None], HELPS, HARMS)
    blended = (1 - weight) * np.repeat(grey(picture)[..., None], 3, -1) + weight * colour
    return np.clip(blended.round(), 0, 255).astype(np.uint8)
