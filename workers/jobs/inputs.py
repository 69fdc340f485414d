"""Brings what a job names onto the device: its model, its rows, first guesses, earlier factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from service.datasets.stored_rows import StoredRows
from service.jobs.counts import positions_of
from service.jobs.validation.columns import match_columns
from service.jobs.validation.compatibility import floating_inputs
from service.jobs.validation.inputs import Chosen
from service.storage.keys import Document, is_id
from service.storage.layout import ResultPaths, blob_path
from service.storage.shared import digest_of
from service.storage.tensors import read_header
from upweight.errors import InvalidRequest
from upweight.schema import (
    AttributionJob,
    Blocks,
    ColumnMatch,
    DatasetRecord,
    IhvpJob,
    JobRecord,
    Judgement,
    ModelRecord,
    Recipe,
    Selection,
    SpanMeasurement,
    parse_rows,
)
from workers.engine import (
    DerivativeCheck,
    Optimality,
    Problem,
    RandomEmbedding,
    Rows,
    Strengths,
    make_measurement,
    optimality,
)
from workers.engine.autodiff.graph.prefix import frozen_prefix
from workers.engine.progress import Progress, silent
from workers.fits.fits import REVISION, Fits
from workers.fits.store import StoredFits
from workers.jobs.asked_damping import fitted
from workers.jobs.given import (
    RowsOf,
    earlier_factors,
    factors_solved,
    first_guess,
    right_hand_sides,
    vectors_of_job,
)
from workers.jobs.plan import Plan
from workers.jobs.results import versions
from workers.jobs.rows import (
    MASK,
    SOME_NUMBERS_BYTES,
    RowsOfJob,
    arrangement,
    checked_derivatives,
    members_of,
    spanned,
)
from workers.jobs.stored_index import StoredIndex, first_random_embedding, first_strengths
from workers.jobs.table import Membership
from workers.process.context import Context

MOST_LOSS = 1e-3  # of a column's range: what float32 may round a value by without a word
FROZEN_PART = 0.5  # of the budget, for values of rows that are computed once

# tf32 and bf16 are those of gradient products alone. Null is none of them: a job's record has what it stands for.
DTYPES: dict[str | None, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "tf32": torch.float32,
    "bf16": torch.float32,
}


class JobInputs:
    """What one job computes with. `rhs` and `factors` are None where they are not given but computed."""

    problem: Problem
    hessian_rows: Rows
    train: Rows
    test: Rows | None
    rhs: RowsOf | None
    factors: RowsOf | None
    perturb_input: int
    frozen_rows: int  # whose values before all selected parameters are computed once; else 0
    progress: Progress  # of whoever works with them at present
    precision_note: str | None
    members: Mapping[str, Membership]  # of the sides whose rows are grouped
    factors_solved: Judgement | None  # the verdict of the job that `factors` are of

    def __init__(
        self,
        context: Context,
        namespace: str,
        job: Document,
        request: AttributionJob,
        *,
        trusted: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Loads them. Raises UpweightError, and what `progress` raises. `trusted`: an earlier task of the job has
        looked at the rows already."""
        self._context, self._namespace, self._job, self._request = context, namespace, job, request
        model = self._model()
        self.progress = progress
        self.problem = context.session.problem(
            namespace, model, DTYPES[request.precision], progress
        )
        rows = RowsOfJob(
            context,
            namespace,
            model,
            None if trusted else self.problem,
            request.batch_size if isinstance(request.batch_size, int) else None,
            progress,
        )
        test: Selection | None = getattr(request, "test", None)
        self.hessian_rows = rows.of(
            *self._arranged("hessian_id"),
            self._hessian_on(),
            "/hessian_on" if request.hessian_on else "/train",
        )
        self.train = rows.of(*self._arranged("train_id"), request.train, "/train")
        self.test = self._test_rows(rows, model, test) if test is not None else None
        self.frozen_rows = self._cut_frozen() if self._takes_no_inputs() else 0
        self.rhs = right_hand_sides(context, namespace, request, self.problem)
        self.factors = earlier_factors(context, namespace, self._factors_job, self.problem)
        self.perturb_input = _input_position(*self._arranged("train_id"), request)
        self.precision_note = self._precision_note(model)
        self.factors_solved = factors_solved(self._factors_job)
        self.members = members_of(context, namespace, job, request)

    def _test_rows(self, rows: RowsOfJob, model: ModelRecord, test: Selection) -> Rows:
        """Without weights: what is measured of them has none."""
        dataset, match = self._arranged("test_id")
        unweighted = match.without(model.loss.weight_column)
        plain = replace(rows, problem=None if rows.problem is None else rows.problem.plain)
        return plain.of(dataset, unweighted, test, "/test")

    def _takes_no_inputs(self) -> bool:
        """Whether nothing but gradients in θ is asked for, and no mask among the inputs is needed."""
        moves = getattr(self._request, "influence_type", "up") == "perturbation"
        return not moves and self.mask_input is None

    def _cut_frozen(self) -> int:
        """Computes what comes before all selected parameters once; answers for how many rows.

        Nothing where all rows' values do not fit into a part of the budget.
        """
        prefix = frozen_prefix(self.problem, self.train)
        if prefix is None:
            return 0
        sides = [self.hessian_rows, self.train]
        # The same rows are held once, whatever they are for.
        names = [
            (self._job["hessian_id"], self._hessian_on().rows),
            (self._job["train_id"], self._request.train.rows),
        ]
        chosen: Selection | None = getattr(self._request, "test", None)
        if self.test is not None and chosen is not None:
            sides.append(self.test)
            rows = chosen.rows
            if (
                self.problem.plain is not self.problem
            ):  # they have no weights, as those of training have
                rows = f"{rows} without weights"
            names.append((self._job["test_id"], rows))
        apart = dict(zip(names, sides, strict=True))
        count = sum(len(each) for each in apart.values())
        if prefix.row_bytes(self.train) * count > FROZEN_PART * self._context.settings.memory_bytes:
            return 0
        computed = {name: prefix.computed(rows, self.progress) for name, rows in apart.items()}
        found = [computed[name] for name in names]
        self.hessian_rows, self.train, self.problem = found[0], found[1], prefix.behind
        if self.test is not None:
            self.test = found[-1]
        return count

    @cached_property
    def measured(self) -> Problem:
        """What the right-hand sides are gradients of: the problem, with the measurement in place of its loss."""
        asked, loss = self._request.measured, self.problem.plain.loss
        which = asked.class_ if asked.name == "logit" else "label"
        return self.problem.with_loss(make_measurement(loss, asked.name, which))

    @cached_property
    def measured_rows(self) -> Rows:
        """The test rows as the measurement takes them. Raises InvalidRequest for a span outside a row."""
        asked, rows = self._request.measured, self.test
        assert rows is not None
        if not isinstance(asked, SpanMeasurement):
            return rows
        selection: Selection = self._request.test  # type: ignore[attr-defined]
        dataset = self._dataset("test_id")
        numbers = list(parse_rows(selection.rows, dataset.rows or 0))
        shown = StoredRows.of(self._context, self._namespace, dataset)
        return spanned(rows, asked, numbers, shown, self.problem.plain.loss)

    def guess(self, digest: str, name: str, rows: slice) -> Tensor:
        """A first guess (k, p) for some right-hand sides, from a tensor of a blob."""
        count, problem = self.rhs_count(), self.problem
        return first_guess(self._context, self._namespace, digest, name, count, problem)(rows)

    @cached_property
    def extended(self) -> StoredIndex | None:
        """The earlier index whose rows are the first of this one's."""
        earlier: str | None = getattr(self._request, "extends", None)
        if earlier is None:
            return None
        return StoredIndex.open(self._context.objects, self._namespace, earlier)

    def strengths(self, make: Callable[[], Strengths]) -> Strengths:
        """Which numbers the job's index keeps: all who make blocks of it take what the first has found."""
        paths = ResultPaths(self._namespace, self._job["id"])
        return first_strengths(self._context.objects, paths, make)

    def random_embedding(self, make: Callable[[], RandomEmbedding]) -> RandomEmbedding:
        """The random projection of the job's index: likewise that of the first."""
        paths = ResultPaths(self._namespace, self._job["id"])
        device = self.problem.device
        return first_random_embedding(self._context.objects, paths, make, device)

    def optimality(self) -> Optimality:
        """How near θ is to an optimum of its training loss; measured once."""

        def measured() -> tuple[Optimality, int]:
            found = optimality(
                self.problem,
                self.hessian_rows,
                batch_size=self._request.batch_size,
                budget_bytes=self._context.settings.memory_bytes,
                progress=self.progress,
            )
            return found, SOME_NUMBERS_BYTES

        return self._context.session.kept(("optimality", *self._hessian_identity()), measured)

    def damped(self, job: Document, request: AttributionJob) -> JobInputs:
        """The same for a job whose λ is worked out."""
        found = copy(self)
        found._job, found._request = job, request
        return found

    @property
    def recipe(self) -> Recipe | None:
        """How the model was trained, as far as that was said."""
        return self._model().recipe

    @property
    def positions(self) -> int:
        """Of a row: a sequence passes through the parameters once a position."""
        return positions_of(self._model().outputs)

    @property
    def damping(self) -> Document | None:
        """What the record says of how λ was worked out; None where it was a number."""
        return self._job.get("damping")

    @property
    def mask_input(self) -> int | None:
        """The position of the input that says which tokens pad, of a model that takes one."""
        inputs = self._arranged("hessian_id")[1].inputs
        return inputs.index(MASK) if MASK in inputs else None

    def kept_of_curvature(self, what: str, made: Callable[[], tuple[Any, int]]) -> Any:
        """What was found out about H before, on this worker, or is now: a value and its bytes."""
        return self._context.session.kept((what, *self._hessian_identity()), made)

    def held_of_curvature(self, what: str) -> Any:
        """The same where it is still held; else None."""
        return self._context.session.held((what, *self._hessian_identity()))

    def derivatives(self) -> DerivativeCheck:
        """Once a model: raises WrongDerivative where the job takes a second derivative that can't be believed."""
        twice = _differentiates_twice(self._request)
        key = (self._namespace, self._job["model_id"])
        return checked_derivatives(self._context, key, self.problem, self.hessian_rows, twice=twice)

    def _hessian_on(self) -> Selection:
        # By default H is over the whole dataset that `train` selects from.
        return self._request.hessian_on or Selection(dataset=self._request.train.dataset)

    def kept_fits(self, plan: Plan) -> Fits:
        """Those that this worker keeps for itself."""
        # A job that says how it is cut gets the same bits in one task and in many.
        recycles = self._request.reuse and self._request.blocks == Blocks()
        fits = self._fits(("fit", *self._hessian_identity(), str(plan.hessian)))
        return replace(fits, recycles=recycles)

    def shared_fits(self, store: StoredFits) -> Fits:
        """Those that all workers at the job find in the object storage."""
        return replace(self._fits(("stored", store.folder)), store=store)

    def _fits(self, key: tuple[str, ...]) -> Fits:
        request = self._request
        return Fits(
            self._context.session,
            key,
            request.inversion,
            request.seed,
            fitted(request),
            of_closed_form=request.curvature.structure != "full",
        )

    def fit_digest(self, plan: Plan) -> str:
        """Of all that goes into what is found out about H."""
        cut = asdict(plan.hessian) if plan.hessian else None
        return digest_of([REVISION, self._hessian_identity(), cut, plan.budget_bytes, versions()])

    def factors_digest(self, plan: Plan) -> str:
        """Of all that goes into the factors: H's part, and every field of the request that is not named beside it."""
        fields = self._request.model_dump(exclude=set(self._request.beside_solutions), mode="json")
        if self._request.measured.name == "loss":
            fields.pop("measurement", None)  # as they were named before there were others
        for side in ("train", "test"):
            if fields.get(side) is not None:  # the rows, by the dataset's id
                id, rows = self._job[f"{side}_id"], fields[side]["rows"]
                fields[side] = [id, rows, self._arrangement(f"{side}_id")]
        return digest_of([self.fit_digest(plan), fields, asdict(plan.rhs)])

    def _hessian_identity(self) -> tuple[str, ...]:
        """Names model, precision, rows, columns and kind of H; the job, too, if it must not use what others made."""
        request, curvature = self._request, self._request.curvature
        identity: tuple[str, ...] = (
            self._namespace,
            self._job["model_id"],
            str(DTYPES[request.precision]),
            self._job["hessian_id"],
            self._hessian_on().rows or "all",
            str(request.batch_size),
            digest_of(self._arrangement("hessian_id")),
        )
        if not curvature.is_default:  # else as it was named before there were others
            seed = request.seed if curvature.draws_labels else None
            identity = (*identity, digest_of([curvature.model_dump(mode="json"), seed]))
        return identity if request.reuse else (*identity, self._job["id"])

    def _record(self, kind: Any, field: str) -> Document:
        return self._context.records.get(kind, self._namespace, self._job[field])

    def _precision_note(self, model: ModelRecord) -> str | None:
        fields = [each for each in ("train_id", "test_id", "hessian_id") if self._job.get(each)]
        datasets = {self._job[each]: self._dataset(each) for each in fields}
        return _precision_note(model, self._request.precision, datasets.values())

    def _dataset(self, field: str) -> DatasetRecord:
        return DatasetRecord.model_validate(self._record("dataset", field))

    def _model(self) -> ModelRecord:
        return ModelRecord.model_validate(self._record("model", "model_id"))

    def _arranged(self, field: str) -> tuple[DatasetRecord, ColumnMatch]:
        """A dataset, and how its columns meet the model's inputs."""
        dataset = self._dataset(field)
        return dataset, next(match for match in self._matched if match.dataset == dataset.id)

    def _arrangement(self, field: str) -> list[object]:
        _, match = self._arranged(field)
        return arrangement(match)

    @cached_property
    def _matched(self) -> list[ColumnMatch]:
        """As the job's record says; of a job that was submitted before records did, as they would."""
        if self._job.get("matched"):
            return [ColumnMatch.model_validate(match) for match in self._job["matched"]]
        fields = {"train_id": "/train", "test_id": "/test", "hessian_id": "/hessian_on"}
        chosen = [
            Chosen(pointer, self._dataset(field), parse_rows(None, 0))
            for field, pointer in fields.items()
            if self._job[field]
        ]
        return match_columns(self._model(), chosen, {})

    def rhs_count(self) -> int:
        """How many right-hand sides the job gives or asks for; 0 for self-influences."""
        request = self._request
        if isinstance(request, IhvpJob) and is_id("job", request.rhs):
            return vectors_of_job(self._context, self._namespace, request.rhs, "/rhs").cut.total
        if isinstance(request, IhvpJob):
            path = blob_path(self._namespace, request.rhs)
            return read_header(self._context.objects, path)["rhs"].shape[0]
        test: Selection | None = getattr(request, "test", None)
        if test is not None:
            return len(parse_rows(test.rows, self._dataset("test_id").rows or 0))
        earlier = self._factors_job
        shape = earlier.result.factor_shape if earlier and earlier.result else None
        return shape[-2] if shape else 0

    @cached_property
    def _factors_job(self) -> JobRecord | None:
        """The earlier job whose factors are taken."""
        earlier = getattr(self._request, "factors", None)
        if earlier is None:
            return None
        return JobRecord.model_validate(self._context.records.get("job", self._namespace, earlier))


def _differentiates_twice(request: AttributionJob) -> bool:
    """Whether a second derivative of the model is in the curvature, or in what the factors meet."""
    moves = getattr(request, "influence_type", "up") == "perturbation"
    return moves or request.curvature.differentiates_twice


def _input_position(train: DatasetRecord, match: ColumnMatch, request: AttributionJob) -> int:
    """Where the input to perturb stands among the model's: the one named, else the floating-point one."""
    wish = getattr(request, "perturb_input", None)
    if wish is not None:
        if wish not in train.inputs:
            raise InvalidRequest.field(
                "/perturb_input", f"the inputs are {', '.join(train.inputs)}", wish
            )
        return match.inputs.index(wish)
    floating = floating_inputs(train)
    return match.inputs.index(floating[0]) if floating else 0


def _precision_note(
    model: ModelRecord, precision: str | None, datasets: Iterable[DatasetRecord]
) -> str | None:
    """What a reader of the numbers should know of their precision; None if nothing."""
    notes = [model.precision_note] if model.precision_note else []
    if DTYPES[precision] != torch.float64:
        if model.precision == "float64":
            notes.append(
                f"the model is in float64; this job asked for {precision}, and float32 keeps some 7 digits"
            )
        losses = {
            f"column {column.name!r} of {dataset.name!r}": column.float32_loss
            for dataset in datasets
            for column in dataset.columns
            if column.float32_loss is not None and column.float32_loss > MOST_LOSS
        }
        notes += [
            f"{column} is float64, and float32 rounds its values by up to {loss:.2g} of their range; ask for "
            "precision 'float64', or take their offset off before they are stored"
            for column, loss in losses.items()
        ]
    return "; ".join(notes) or None
