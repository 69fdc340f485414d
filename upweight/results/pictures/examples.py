"""The training rows that helped and harmed most, beside the test rows that they did it to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
import upweight.results.labels as labels
import upweight.results.stored as stored
from upweight.errors import NotStored
from upweight.http.flow import Flow
from upweight.results.pictures.look import label, pixels, words
from upweight.results.rows import ids_at, record_of, rows_of, vocabulary_of
from upweight.schema import DatasetRecord, ImagePreview, JobRecord, PredictedRow, Ranked

if TYPE_CHECKING:
    from numpy.typing import NDArray


TESTS = 3  # test rows that are shown unless others are asked for


@dataclass(frozen=True)
class Example:
    """A row as it can be shown."""

    row: int
    id: int | str | None = None  # where the dataset has some
    label: str = ""
    predicted: str = ""
    influence: float | None = None
    loss: float | None = None
    picture: NDArray[np.uint8] | None = None
    words: str = ""

    @property
    def name(self) -> str:
        """Its number, and its id where that is another one."""
        return f"row {self.row}" if self.id in (None, self.row) else f"row {self.row} · {self.id}"


# Of training rows of positive and of negative influence: on a loss, and on what else is measured.
OF_LOSS, OF_OTHERS = ("helpful", "harmful"), ("lowers", "raises")


@dataclass(frozen=True)
class Panel:
    """A test row, or None for the mean over all; the strongest training rows of both signs.

    Of self-influences: the training rows with the largest, as `doubtful`, and nothing else.
    """

    test: Example | None
    helpful: tuple[Example, ...] = ()  # those of positive influence
    harmful: tuple[Example, ...] = ()
    doubtful: tuple[Example, ...] = ()
    words: tuple[str, str] = OF_LOSS

    @property
    def lines(self) -> tuple[tuple[str, tuple[Example, ...]], ...]:
        """Its rows under their titles."""
        if self.doubtful:
            return (("doubtful", self.doubtful),)
        return ((self.words[0], self.helpful), (self.words[1], self.harmful))


def panels(record: JobRecord, tests: Sequence[int] | None, k: int) -> Flow[list[Panel]]:
    """A panel a test row of the matrix; None: those of the largest loss. Raises NotStored."""
    labels.refuse_groups(record)
    train = yield from record_of(record.train_id)
    if record.request.is_self:
        largest = yield from stored.top(record, None, k, "helpful")
        doubtful, _ = yield from _examples(train, (largest.items, []), {})
        return [Panel(None, doubtful=doubtful)]
    if tests is None:
        tests = yield from hardest(record)
    found = []
    for position in tests:
        ranked = yield from _ranked(record, position, k)
        columns = [item.column for items in ranked for item in items]
        guesses = yield from predicted(record, "train", columns)
        helpful, harmful = yield from _examples(train, ranked, guesses)
        focus = yield from itself(record, position)
        words = OF_LOSS if record.request.measured.name == "loss" else OF_OTHERS
        found.append(Panel(focus, helpful, harmful, words=words))
    return found


def _ranked(
    record: JobRecord, position: int | None, k: int
) -> Flow[tuple[list[Ranked], list[Ranked]]]:
    positive = yield from stored.top(record, position, k, "lowers")
    negative = yield from stored.top(record, position, k, "raises")
    return positive.items, negative.items


def hardest(record: JobRecord) -> Flow[list[int]]:
    """The test rows that the model gets most wrong; the first ones where that is not known."""
    try:
        found = yield from stored.rows(record, None, "test", "-loss", 0, TESTS)
    except NotStored:
        return list(range(min(TESTS, (stored.summary(record).influence_shape or [0])[0])))
    return [item.position for item in found.items]


def predicted(
    record: JobRecord, side: stored.Side, positions: Iterable[int]
) -> Flow[dict[int, PredictedRow]]:
    """What the model made of rows, by dataset row; empty for results that did not store it."""
    text = ",".join(str(position) for position in sorted(set(positions)))
    try:
        found = yield from stored.rows(record, text, side, "position", 0, 1000)
    except NotStored:
        return {}
    return {item.row: item for item in found.items}


def itself(record: JobRecord, position: int) -> Flow[Example]:
    """A test row of the matrix, or what it is of where no test rows stand for the factors."""
    if record.test_id is None:
        return Example(position, words="right-hand side")
    dataset = yield from record_of(record.test_id)
    guesses = yield from predicted(record, "test", [position])
    labelled = yield from labels.labelled(record, "influences")
    row = int(labelled.axes[0].labels(np.array([position]))[0])
    shown = yield from looks(dataset, [row], guesses)
    return shown[row]


def _examples(
    dataset: DatasetRecord,
    ranked: tuple[list[Ranked], list[Ranked]],
    guesses: dict[int, PredictedRow],
) -> Flow[tuple[tuple[Example, ...], tuple[Example, ...]]]:
    shown = yield from looks(dataset, {item.row for items in ranked for item in items}, guesses)
    helpful, harmful = (
        tuple(replace(shown[item.row], influence=item.influence) for item in items)
        for items in ranked
    )
    return helpful, harmful


def looks(
    dataset: DatasetRecord, rows: Iterable[int], guesses: dict[int, PredictedRow]
) -> Flow[dict[int, Example]]:
    """Rows by number, each as its dataset's preview says."""
    wanted = sorted(rows)
    if not wanted:
        return {}
    preview: Any = dataset.preview
    shown = preview.column if preview is not None else dataset.inputs[0]
    columns = [shown, *dataset.targets[:1]]
    values = yield from rows_of(dataset, ",".join(map(str, wanted)), columns)
    known = yield from vocabulary_of(dataset)
    ids: list[int | str | None] = [None] * len(wanted)
    if dataset.ids is not None:
        ids = (yield from ids_at(dataset, np.asarray(wanted, np.int64))).tolist()
    found = {}
    for at, row in enumerate(wanted):
        guess = guesses.get(row)
        found[row] = Example(
            row,
            ids[at],
            label=label(values[columns[1]][at], dataset) if len(columns) > 1 else "",
            predicted=""
            if guess is None or guess.prediction is None
            else label(guess.prediction, dataset),
            loss=None if guess is None else guess.loss,
            picture=pixels(values[shown][at], preview)
            if isinstance(preview, ImagePreview)
            else None,
            words=""
            if isinstance(preview, ImagePreview)
            else words(values[shown][at], preview, known),
        )
    return found
