"""Results: handles of jobs, with arrays that are fetched when they are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import upweight.late.numpy as np
import upweight.results.labels as labels
import upweight.results.stored as stored
from upweight.errors import UpweightError
from upweight.http import polling
from upweight.http.events import followed
from upweight.http.transport import Transport
from upweight.results.array import InversionInfo, RemoteArray
from upweight.results.asking import asked
from upweight.results.quality import QualityTable
from upweight.results.rows import RowChoice, rows_text
from upweight.results.saving import Labelled, arrow_table, frame, saved_as
from upweight.results.source import ArraySource
from upweight.results.suspects import SuspectTable
from upweight.results.tables import Bm25Ranking, PredictedRows, Ranking
from upweight.schema import (
    Explained,
    Files,
    IndexProgress,
    JobRecord,
    JobState,
    ModelMade,
    QualityReport,
    Sign,
    TrainingCurve,
    Verdict,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from upweight.results.handover import Tool
    from upweight.results.pictures import FeaturePanel, Panel
    from upweight.results.pictures.slices import Slice


class Result(stored.Handle[Transport]):
    """A job and what it stored."""

    _info: InversionInfo | None = None

    def refresh(self) -> Self:
        """Fetches the job's record anew."""
        found = self._link.run(polling.fetch(self.id))
        if isinstance(self._job, stored.SeenAt):
            found = stored.at(found, self._job.seen_at)
        self._job = found
        return self

    @property
    def dampings(self) -> tuple[float, ...]:
        """The λ's as numbers; of a list they are the first axis of all arrays."""
        return stored.dampings(self._known())

    def at(self, *, damping: float) -> Self:
        """The same result with one of its λ's alone: its arrays have no axis λ. Raises InvalidRequest."""
        return type(self)(self._link, self._bars, stored.at(self._known(), damping))

    def wait(
        self,
        timeout: float | None = None,
        on_progress: polling.OnProgress | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Waits until the job has succeeded; raises what it failed of, JobCancelled, or WaitTimedOut."""
        hold = self._link.connection.hold
        flow = polling.until_ended(
            self.id, self._bars, record=self._job, timeout=timeout, on_progress=on_progress,
            progress=progress, hold=hold,
        )  # fmt: skip
        self._job = self._link.run(flow)
        polling.waited_for(self._job)
        return self

    def cancel(self) -> Self:
        """Asks for the job's end; a running job stops within seconds."""
        self._job = self._link.run(polling.act(self.id, "cancel"))
        return self

    def retry(self) -> Self:
        """Runs a failed or cancelled job again, from the blocks that are done."""
        self._job = self._link.run(polling.act(self.id, "retry"))
        self._info = None
        return self

    def events(self) -> Iterator[JobRecord]:
        """Every change of the job until it ends."""
        for record in followed(self._link, self.id):
            self._job = record
            yield record

    def delete(self) -> None:
        """Removes the ended job and what it stored."""
        self._link.run(polling.delete(self.id))

    @property
    def verdict(self) -> Verdict | None:
        """Whether the linear system was solved, and whether influence applies here; None before the end."""
        return self._known().verdict

    @property
    def info(self) -> InversionInfo:
        """What the inversion says of itself: numbers at once, arrays when they are asked for."""
        if self._info is None:
            job = self._known()
            self._info = InversionInfo(
                self._link.run(stored.info(job)),
                lambda spec: RemoteArray(stored.info_array(job, spec), self._link, self._bars),
            )
        return self._info

    def report(self) -> dict[str, Any]:
        """What the job found that is no array, as its kind has it. Raises NotStored."""
        return self._link.run(stored.report(self._known()))

    def files(self) -> Files:
        """All objects of the result, with sizes and digests."""
        return self._link.run(stored.files(self._known()))

    def save(
        self, path: str | os.PathLike[str], array: str | None = None, *, wide: bool = False
    ) -> Path:
        """Streams the result into a file, put in place all at once.

        `.npy`: the main array, or the one that is named (`influences`, `mean`, `factors`). `.npz`, `.safetensors`:
        all that were kept. `.csv`, `.parquet`: one array as a table with a row a number and its dataset rows;
        `wide`: a `.csv` with a line a test row and a column a training row.
        """
        job = self._known()
        main, sources = stored.saveable(job, array)
        labelled = self._link.run(labels.identified(job, main))
        return self._link.run(saved_as(path, main, sources, labelled, self._bars, wide))

    def to_pandas(self, array: str | None = None) -> Any:
        """A DataFrame with dataset rows as its labels: a matrix keeps its shape. Needs pandas."""
        return frame(*self._whole(array))

    def to_arrow(self, array: str | None = None) -> Any:
        """A pyarrow Table with a row a number: `test`, `train`, `influence`. Needs pyarrow."""
        return arrow_table(*self._whole(array))

    def _whole(self, array: str | None) -> tuple[NDArray[Any], Labelled]:
        job = self._known()
        main, sources = stored.saveable(job, array)
        labelled = self._link.run(labels.identified(job, main))
        return self._array(sources[main]).numpy(), labelled

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and the rows that mattered most, as their dataset's preview shows them."""
        import upweight.results.notebook as notebook

        shown: Sequence[Panel | FeaturePanel] = []
        # What can't be shown is left out: a notebook shows the rest.
        with suppress(UpweightError):
            if self.refresh().job.state == JobState.SUCCEEDED:
                by_feature = getattr(self._job.request, "influence_type", "") == "perturbation"
                shown = self.feature_panels() if by_feature else self.panels(None, 5)
        return notebook.html(self._job, shown)

    def panels(self, test: Sequence[int] | None = None, k: int = 5) -> list[Panel]:
        """Test rows of the matrix (without: those of the largest loss), each with its k strongest training rows."""
        from upweight.results.pictures import panels

        return self._link.run(panels(self._known(), test, k))

    def feature_panels(self) -> list[FeaturePanel]:
        """Of perturbations: test rows of the largest loss, with the training rows whose features matter most."""
        from upweight.results.pictures import feature_panels

        return self._link.run(feature_panels(self._known(), self._bars))

    def _known(self) -> JobRecord:
        return self._job if polling.ended(self._job) else self.refresh()._job

    def _array(self, source: ArraySource) -> RemoteArray:
        return RemoteArray(source, self._link, self._bars)


class RankedResult(Result):
    """A result that has a number for each training row."""

    def top(
        self, test: int | None = None, k: int = 10, sign: Sign | None = None, words: bool = False
    ) -> Ranking:
        """The k strongest training rows for a test row, or by mean over all test rows; `words`: with their `text`.

        `sign`: `helpful` or `harmful`; or `lowers` or `raises`, of whatever was measured. By default the helpful
        ones; of the logit of a class other than the label's, those that raise it.
        """
        return self._link.run(stored.top(self._known(), test, k, sign, words))

    def bm25(self, test: int | None = None, k: int = 10, words: bool = False) -> Bm25Ranking:
        """Of rows of tokens: those of the highest BM25 instead, to look at beside `top`; each has a `score`.

        `test`: row of the result, or group of `aggregate`, whose rows' scores are averaged; None: all test rows.
        `words`: with their `text`. The scores are of the tokens alone, and no influences. Raises NotStored where rows
        are no tokens.
        """
        return self._link.run(stored.bm25(self._known(), test, k, words))

    def suspects(self, k: int | None = None) -> SuspectTable:
        """The training rows whose labels deserve a look, the most suspect first: all, or the first k.

        Of `self_influences` those of most influence on themselves; else those of the most harmful mean influence on
        the test rows. `.to_pandas()` has `id`, `row`, `score` (0 to 1, low is suspect), `label` and `predicted`.
        """
        return self._link.run(stored.suspects(self._known(), k))

    def export(
        self,
        to: Tool,
        path: str | os.PathLike[str] | None = None,
        *,
        k: int | None = None,
        share: float = 0.05,
        dataset: Any = None,
        id_column: str = "id",
    ) -> Any:
        """Hands the suspects over to another tool, in the form that it takes; scores are low where rows are bad.

        - `cleanlab`: a DataFrame with Datalab's columns, a line a row of the dataset;
        - `label-studio`: tasks with predictions, and beside the file the labelling interface, as .xml;
        - `fiftyone`: values by id for each field, for `samples.set_values(field, values, key_field=…)`;
        - `argilla`: records with suggestions; a file is for `dataset.records.from_json`;
        - `datasets`: a Dataset of Hugging Face's, or the given `dataset` with columns added by its `id_column`;
        - `mlflow`: a table of the active run, whose address is the answer;
        - `wandb`: a Table, logged into the active run where `path` names it.

        `path`: the file to write, whose path is the answer. `k`: the first k suspects only. `share`: the part of the
        rows with the lowest scores that `is_label_issue` marks. Ids are the dataset's, or rows' numbers without any.
        Tables of rows of tokens have a column `text`, where the dataset has the words.
        """
        from upweight.results.handover import handed_over

        flow = handed_over(self._known(), to, path, k, share, dataset, id_column)
        return self._link.run(flow)

    def rows(
        self,
        rows: RowChoice | None = None,
        *,
        side: stored.Side = "test",
        sort: str = "position",
        offset: int = 0,
        limit: int = 50,
    ) -> PredictedRows:
        """The model's loss, prediction and target of rows: at positions, or sorted (`loss`, `-loss`, `error`, …)."""
        chosen = None if rows is None else rows_text(rows)
        return self._link.run(stored.rows(self._known(), chosen, side, sort, offset, limit))

    def plot(
        self, kind: str = "top", path: str | os.PathLike[str] | None = None, **options: Any
    ) -> Any:
        """A matplotlib figure, written to `path` (.png, .svg, .pdf) if that is given. Needs matplotlib.

        `"top"`: test rows with the training rows that helped and harmed them most (`test`, `k`).
        `"heatmap"`: a slice in diverging colours (`test`, `train`, `by_class`); of perturbations, one row's features.
        `"ranking"`: how many of the rows in `flipped` are found when the most suspicious are looked at first.
        `"damping"`: of a list of λ's, how alike neighbours rank the training rows.
        """
        from upweight.results.plot import drawn

        return drawn(self, kind, path, options)

    def part(self, test: Any = None, train: Any = None, by_class: bool = True) -> Slice:
        """What the heat map shows."""
        from upweight.results.pictures.slices import part

        return self._link.run(part(self._known(), test, train, by_class, self._bars))


class InfluenceResult(RankedResult):
    """The influence of training rows on test rows. Positive: the row helped."""

    @property
    def influences(self) -> RemoteArray:
        """(test rows, training rows), for `perturbation` followed by the shape of one input; a list's λ's before."""
        return self._array(stored.influences(self._known()))

    @property
    def factors(self) -> RemoteArray:
        """(test rows, parameters): (H + λI)⁻¹ ∇L(z_test), if they were kept."""
        return self._array(stored.factors(self._known()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the influences."""
        return tuple(stored.summary(self._known()).influence_shape or ())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the influences."""
        return np.dtype(stored.summary(self._known()).dtype)

    @property
    def rescaled(self) -> RemoteArray:
        """Of `groups=`: (test rows, sets), what removing each does at the curvature without it, by 1 − leverage."""
        return self._array(stored.rescaled(self._known()))

    @property
    def by_layer(self) -> RemoteArray:
        """Of `scores_by="layer"`: (test rows, training rows, layers), which add up to the influences; `layer_names`."""
        return self._array(stored.parts(self._known(), "layer"))

    @property
    def by_token(self) -> RemoteArray:
        """Of `scores_by="token"`: (test rows, training rows, positions), which add up to the influences."""
        return self._array(stored.parts(self._known(), "token"))

    @property
    def layer_names(self) -> list[str]:
        """The modules along the last axis of `by_layer`."""
        return stored.layer_names(self._known())

    @property
    def groups(self) -> dict[str, list[bool | int | float | str]]:
        """The names of the groups of `test` and `train`, of each axis that has groups in the place of rows."""
        return labels.group_names(self._known())

    def mean(self) -> NDArray[Any]:
        """The mean influence of each training row over the test rows."""
        return self._array(stored.mean(self._known())).numpy()

    def numpy(self) -> NDArray[Any]:
        """The whole matrix, in memory."""
        return self.influences.numpy()


class FactorsResult(Result):
    """Solutions of (H + λI) x = b, a row each."""

    @property
    def x(self) -> RemoteArray:
        """(test rows or right-hand sides, parameters)."""
        return self._array(stored.vectors(self._known()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `x`."""
        return self.x.shape

    def numpy(self) -> NDArray[Any]:
        """All of `x`, in memory."""
        return self.x.numpy()


class GradientsResult(FactorsResult):
    """Gradients of rows, a row each: `.x` is (rows, parameters)."""


class ProductsResult(FactorsResult):
    """(C + λI) v, a row a vector: `.x` is (vectors, parameters)."""


class SelfInfluenceResult(RankedResult):
    """The influence of each training row on itself."""

    @property
    def influences(self) -> RemoteArray:
        """(training rows,)."""
        return self._array(stored.influences(self._known()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the influences."""
        return self.influences.shape

    def numpy(self) -> NDArray[Any]:
        """All of them, in memory."""
        return self.influences.numpy()


class RetrainingResult(Result):
    """A model that was trained anew: its record, and how its training went."""

    @property
    def model(self) -> ModelMade | None:
        """The model that it gave: its id, name and version; None before the end."""
        return self._known().model

    @property
    def curve(self) -> TrainingCurve | None:
        """The losses, epoch by epoch, as far as it has come; None before the first."""
        return self.refresh()._job.curve


class QualityResult(Result):
    """Results held against retraining: a table."""

    def table(self) -> QualityTable:
        """Each measure of each result and baseline, with its interval. Raises ResultNotReady."""
        return QualityTable(QualityReport.model_validate(self.report()), self.id)


class IndexResult(Result):
    """An index of training rows, that is asked about rows which come later."""

    def query(
        self,
        *,
        k: int = 20,
        candidates: int = 500,
        text: str | Sequence[str] | None = None,
        test: Any = None,
        test_rows: RowChoice | None = None,
        model: Any = None,
        progress: Callable[[IndexProgress], None] | None = None,
        columns: Mapping[str, Any] | None = None,
        **rows: Any,
    ) -> list[Explained]:
        """For each row the training rows that help and that harm it most: `.helpful`, `.harmful`, the strongest first.

        The rows by column, as in the index's dataset: `query(x=…, y=…)`, arrays with a row an entry, or one row where a
        column is a number. Or `text`, one or several, where the dataset has its tokenizer: what does not follow from
        their tokens, such as a class, is given beside them, `query(text="a lovely film", y=1)`, and each answer has
        `tokens`. Or `test`, a dataset's name, id or record, and its `test_rows`. `candidates`: training rows
        that are found by the index's numbers and scored by their whole gradients; 0: by the numbers alone. `columns`:
        in place of keywords, for names that are no keywords. `model`: the version that is meant, where a newer one of
        the name is there. `progress` is called with what goes on, for a question that takes long: one that waits for a
        worker, or the first of a large index; each event holds the time anew. Each item has `row`, `id` and
        `influence`; positive is helpful.
        """
        flow = asked(
            self.id, {**(columns or {}), **rows}, text=text, test=test, test_rows=test_rows, k=k,
            candidates=candidates, model=model, progress=progress,
        )  # fmt: skip
        return self._link.run(flow)


RESULTS: dict[str, type[Result]] = {
    "influences": InfluenceResult,
    "factors": FactorsResult,
    "ihvp": FactorsResult,
    "self_influences": SelfInfluenceResult,
    "index": IndexResult,
    "gradients": GradientsResult,
    "hvp": ProductsResult,
    "retrain": RetrainingResult,
    "quality": QualityResult,
}
