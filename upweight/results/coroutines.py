"""`upweight.results.blocking` for an AsyncClient: what fetches is awaited."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import upweight.results.labels as labels
import upweight.results.stored as stored
from upweight.http import polling
from upweight.http.events import followed_async
from upweight.http.transport import AsyncTransport, Transport
from upweight.results.array import AsyncRemoteArray
from upweight.results.asking import asked
from upweight.results.blocking import RESULTS
from upweight.results.quality import QualityTable
from upweight.results.rows import RowChoice, rows_text
from upweight.results.saving import Labelled, arrow_table, frame, saved_as
from upweight.results.source import ArraySource
from upweight.results.suspects import SuspectTable
from upweight.results.tables import Bm25Ranking, PredictedRows, Ranking
from upweight.schema import (
    ArraySpec,
    Explained,
    Files,
    IndexProgress,
    Info,
    JobRecord,
    ModelMade,
    QualityReport,
    Sign,
    TrainingCurve,
    Verdict,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from upweight.results.handover import Tool
    from upweight.results.pictures import Panel


class AsyncResult(stored.Handle[AsyncTransport]):
    """A job and what it stored."""

    async def refresh(self) -> Self:
        """Fetches the job's record anew."""
        found = await self._link.run(polling.fetch(self.id))
        if isinstance(self._job, stored.SeenAt):
            found = stored.at(found, self._job.seen_at)
        self._job = found
        return self

    async def dampings(self) -> tuple[float, ...]:
        """The λ's as numbers; of a list they are the first axis of all arrays."""
        return stored.dampings(await self._known())

    async def at(self, *, damping: float) -> Self:
        """The same result with one of its λ's alone: its arrays have no axis λ. Raises InvalidRequest."""
        return type(self)(self._link, self._bars, stored.at(await self._known(), damping))

    async def wait(
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
        self._job = await self._link.run(flow)
        polling.waited_for(self._job)
        return self

    async def cancel(self) -> Self:
        """Asks for the job's end; a running job stops within seconds."""
        self._job = await self._link.run(polling.act(self.id, "cancel"))
        return self

    async def retry(self) -> Self:
        """Runs a failed or cancelled job again, from the blocks that are done."""
        self._job = await self._link.run(polling.act(self.id, "retry"))
        return self

    async def events(self) -> AsyncIterator[JobRecord]:
        """Every change of the job until it ends. Iterate with `async for`."""
        async for record in followed_async(self._link, self.id):
            self._job = record
            yield record

    async def delete(self) -> None:
        """Removes the ended job and what it stored."""
        await self._link.run(polling.delete(self.id))

    async def verdict(self) -> Verdict | None:
        """Whether the linear system was solved, and whether influence applies here; None before the end."""
        return (await self._known()).verdict

    async def info(self) -> AsyncInversionInfo:
        """What the inversion says of itself: numbers at once, arrays when they are asked for."""
        job = await self._known()
        return AsyncInversionInfo(await self._link.run(stored.info(job)), self)

    async def report(self) -> dict[str, Any]:
        """What the job found that is no array, as its kind has it. Raises NotStored."""
        return await self._link.run(stored.report(await self._known()))

    async def files(self) -> Files:
        """All objects of the result, with sizes and digests."""
        return await self._link.run(stored.files(await self._known()))

    async def save(
        self, path: str | os.PathLike[str], array: str | None = None, *, wide: bool = False
    ) -> Path:
        """Streams the result into a file, put in place all at once.

        The rest is as for `Result.save`.
        """
        job = await self._known()
        main, sources = stored.saveable(job, array)
        labelled = await self._link.run(labels.identified(job, main))
        return await self._link.run(saved_as(path, main, sources, labelled, self._bars, wide))

    async def to_pandas(self, array: str | None = None) -> Any:
        """A DataFrame with dataset rows as its labels: a matrix keeps its shape. Needs pandas."""
        return frame(*await self._whole(array))

    async def to_arrow(self, array: str | None = None) -> Any:
        """A pyarrow Table with a row a number: `test`, `train`, `influence`. Needs pyarrow."""
        return arrow_table(*await self._whole(array))

    async def _whole(self, array: str | None) -> tuple[NDArray[Any], Labelled]:
        job = await self._known()
        main, sources = stored.saveable(job, array)
        labelled = await self._link.run(labels.identified(job, main))
        return await self.array(sources[main]).numpy(), labelled

    async def _known(self) -> JobRecord:
        if not polling.ended(self._job):
            await self.refresh()
        return self._job

    def array(self, source: ArraySource) -> AsyncRemoteArray:
        """An array of this job."""
        return AsyncRemoteArray(source, self._link, self._bars)


class AsyncRankedResult(AsyncResult):
    """A result that has a number for each training row."""

    async def top(
        self, test: int | None = None, k: int = 10, sign: Sign | None = None, words: bool = False
    ) -> Ranking:
        """The k strongest training rows for a test row, or by mean over all test rows; `words`: with their `text`.

        `sign`: `helpful` or `harmful`; or `lowers` or `raises`, of whatever was measured. By default the helpful
        ones; of the logit of a class other than the label's, those that raise it.
        """
        return await self._link.run(stored.top(await self._known(), test, k, sign, words))

    async def bm25(self, test: int | None = None, k: int = 10, words: bool = False) -> Bm25Ranking:
        """Of rows of tokens: those of the highest BM25 instead, to look at beside `top`; each has a `score`.

        `test`: row of the result, or group of `aggregate`, whose rows' scores are averaged; None: all test rows.
        `words`: with their `text`. The scores are of the tokens alone, and no influences. Raises NotStored where rows
        are no tokens.
        """
        return await self._link.run(stored.bm25(await self._known(), test, k, words))

    async def suspects(self, k: int | None = None) -> SuspectTable:
        """The training rows whose labels deserve a look, the most suspect first: all, or the first k.

        Of `self_influences` those of most influence on themselves; else those of the most harmful mean influence on
        the test rows. `.to_pandas()` has `id`, `row`, `score` (0 to 1, low is suspect), `label` and `predicted`.
        """
        return await self._link.run(stored.suspects(await self._known(), k))

    async def export(
        self,
        to: Tool,
        path: str | os.PathLike[str] | None = None,
        *,
        k: int | None = None,
        share: float = 0.05,
        dataset: Any = None,
        id_column: str = "id",
    ) -> Any:
        """Hands the suspects over to another tool. The rest is as for `RankedResult.export`."""
        from upweight.results.handover import handed_over

        flow = handed_over(await self._known(), to, path, k, share, dataset, id_column)
        return await self._link.run(flow)

    async def rows(
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
        flow = stored.rows(await self._known(), chosen, side, sort, offset, limit)
        return await self._link.run(flow)

    async def panels(self, test: Sequence[int] | None = None, k: int = 5) -> list[Panel]:
        """Test rows of the matrix (without: those of the largest loss), each with its k strongest training rows."""
        from upweight.results.pictures import panels

        return await self._link.run(panels(await self._known(), test, k))

    async def plot(
        self, kind: str = "top", path: str | os.PathLike[str] | None = None, **options: Any
    ) -> Any:
        """A matplotlib figure, written to `path` (.png, .svg, .pdf) if that is given. Needs matplotlib.

        Drawn in a thread. The rest is as for `RankedResult.plot`.
        """
        job = await self._known()

        def draw() -> Any:
            link = Transport(self._link.connection)
            try:
                blocking: Any = RESULTS[job.request.kind](link, self._bars, job)
                return blocking.plot(kind, path, **options)
            finally:
                link.close()

        import asyncio

        return await asyncio.to_thread(draw)


class AsyncInfluenceResult(AsyncRankedResult):
    """The influence of training rows on test rows. Positive: the row helped."""

    @property
    def influences(self) -> AsyncRemoteArray:
        """(test rows, training rows), for `perturbation` followed by an input's shape: `await result.influences[0]`."""
        return self.array(stored.influences(self._job))

    @property
    def factors(self) -> AsyncRemoteArray:
        """(test rows, parameters): (H + λI)⁻¹ ∇L(z_test), if they were kept."""
        return self.array(stored.factors(self._job))

    @property
    def rescaled(self) -> AsyncRemoteArray:
        """Of `groups=`: (test rows, sets), what removing each does at the curvature without it, by 1 − leverage."""
        return self.array(stored.rescaled(self._job))

    @property
    def by_layer(self) -> AsyncRemoteArray:
        """Of `scores_by="layer"`: (test rows, training rows, layers), which add up to the influences; `layer_names`."""
        return self.array(stored.parts(self._job, "layer"))

    @property
    def by_token(self) -> AsyncRemoteArray:
        """Of `scores_by="token"`: (test rows, training rows, positions), which add up to the influences."""
        return self.array(stored.parts(self._job, "token"))

    @property
    def layer_names(self) -> list[str]:
        """The modules along the last axis of `by_layer`."""
        return stored.layer_names(self._job)

    @property
    def groups(self) -> dict[str, list[bool | int | float | str]]:
        """The names of the groups of `test` and `train`, of each axis that has groups in the place of rows."""
        return labels.group_names(self._job)

    async def mean(self) -> NDArray[Any]:
        """The mean influence of each training row over the test rows."""
        return await self.array(stored.mean(await self._known())).numpy()

    async def numpy(self) -> NDArray[Any]:
        """The whole matrix, in memory."""
        return await self.array(stored.influences(await self._known())).numpy()


class AsyncFactorsResult(AsyncResult):
    """Solutions of (H + λI) x = b, a row each."""

    @property
    def x(self) -> AsyncRemoteArray:
        """(test rows or right-hand sides, parameters). `await result.x[0]`."""
        return self.array(stored.vectors(self._job))

    async def numpy(self) -> NDArray[Any]:
        """All of `x`, in memory."""
        return await self.array(stored.vectors(await self._known())).numpy()


class AsyncGradientsResult(AsyncFactorsResult):
    """Gradients of rows, a row each."""


class AsyncProductsResult(AsyncFactorsResult):
    """(C + λI) v, a row a vector."""


class AsyncSelfInfluenceResult(AsyncRankedResult):
    """The influence of each training row on itself."""

    @property
    def influences(self) -> AsyncRemoteArray:
        """(training rows,)."""
        return self.array(stored.influences(self._job))

    async def numpy(self) -> NDArray[Any]:
        """All of them, in memory."""
        return await self.array(stored.influences(await self._known())).numpy()


class AsyncRetrainingResult(AsyncResult):
    """A model that was trained anew: its record, and how its training went."""

    async def model(self) -> ModelMade | None:
        """The model that it gave: its id, name and version; None before the end."""
        return (await self._known()).model

    async def curve(self) -> TrainingCurve | None:
        """The losses, epoch by epoch, as far as it has come; None before the first."""
        return (await self.refresh()).job.curve


class AsyncQualityResult(AsyncResult):
    """Results held against retraining: a table."""

    async def table(self) -> QualityTable:
        """Each measure of each result and baseline, with its interval. Raises ResultNotReady."""
        return QualityTable(QualityReport.model_validate(await self.report()), self.id)


class AsyncIndexResult(AsyncResult):
    """An index of training rows, that is asked about rows which come later."""

    async def query(
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
        """As `IndexResult.query`, awaited."""
        flow = asked(
            self.id, {**(columns or {}), **rows}, text=text, test=test, test_rows=test_rows, k=k,
            candidates=candidates, model=model, progress=progress,
        )  # fmt: skip
        return await self._link.run(flow)


class AsyncInversionInfo:
    """A summary's numbers, and arrays by name: `await info["residuals"].numpy()`."""

    def __init__(self, info: Info, result: AsyncResult) -> None:
        self.method = info.method
        self.summary = dict(info.summary)
        self.arrays: dict[str, ArraySpec] = {spec.name: spec for spec in info.arrays}
        self._result = result

    def __getitem__(self, name: str) -> Any:
        if name not in self.arrays:
            return self.summary[name]
        return self._result.array(stored.info_array(self._result.job, self.arrays[name]))


ASYNC_RESULTS: dict[str, type[AsyncResult]] = {
    "influences": AsyncInfluenceResult,
    "factors": AsyncFactorsResult,
    "ihvp": AsyncFactorsResult,
    "self_influences": AsyncSelfInfluenceResult,
    "index": AsyncIndexResult,
    "gradients": AsyncGradientsResult,
    "hvp": AsyncProductsResult,
    "retrain": AsyncRetrainingResult,
    "quality": AsyncQualityResult,
}
