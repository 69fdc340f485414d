"""Quality: a job that holds results against retraining, the table that it gives, and what a verdict has of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from upweight.schema.any_job import Dropped, JobBase, Selection
from upweight.schema.base import Answer, PositiveInt, Request
from upweight.schema.recipe import Recipe

Measure = Literal["lds", "loo", "mislabel", "brittleness", "tail_patch"]
JobId = Annotated[str, Field(pattern=r"^job_[0-9A-Z]{26}$")]
# What is trained anew for each, so that a job without a recipe may still be measured by the others.
RETRAINS: frozenset[Measure] = frozenset({"lds", "loo", "brittleness"})
ONE_STEP: frozenset[Measure] = frozenset({"tail_patch"})


class TogetherTrained(Request):
    """How the models of a quality job are trained; null leaves it to the service.

    Which models train together decides the last bits of their weights; which worker trains them, and when, never does.
    """

    models: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="That train as one program at most; memory may allow fewer."
    )
    spread: bool | None = Field(
        None,
        description="Whether all workers train them, a group each at a time; false: one does, group after group.",
    )


class QualityJob(JobBase):
    """Holds results against what retraining does, on a bank of models that were trained on subsets of the rows.

    All results are of one model, with the same training and test rows. Beside them stand plain baselines.
    """

    resumable: ClassVar[bool] = True  # the bank keeps what it has trained
    kind: Literal["quality"] = "quality"
    results: Annotated[tuple[JobId, ...], Field(min_length=1, max_length=64)] = Field(
        description="Jobs of kind `influences` (`up`) that keep their matrix, or of kind `self_influences` for "
        "`mislabel`. A list's λ's are judged one by one."
    )
    measures: Annotated[tuple[Measure, ...], Field(min_length=1, max_length=5)] = Field(
        ("lds",),
        description="`lds`: the rank correlation, over random subsets of the training rows, of the sum of a subset's "
        "influences with the test row's loss after training on that subset. `loo`: the same for single rows that are "
        "left out. `mislabel`: how well wrong labels are found; needs `wrong`. `brittleness`: how much more the test "
        "loss rises without the `k` most helpful rows than without `k` random ones. `tail_patch`: how much more it "
        "falls by one step on these. All are higher for better results.",
    )
    train: Selection = Field(description="The training rows of the results; others are refused.")
    test: Selection | None = Field(
        None, description="Null: the test rows of the results; others are refused."
    )
    subsets: Annotated[int, Field(ge=3, le=10_000)] = Field(100, description="Of `lds`.")
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="Of the training rows that a subset has."
    )
    repeats: Annotated[int, Field(ge=1, le=20)] = Field(
        2,
        description="Trainings on each subset, with another seed each: outcomes are their means, and how far they "
        "agree is the noise that no score can predict, which needs 2 or more.",
    )
    left_out: PositiveInt = Field(
        100, description="Rows that `loo` leaves out, one by one, drawn with the seed; all at most."
    )
    k: PositiveInt = Field(
        10, description="Rows that `brittleness` removes and `tail_patch` steps on."
    )
    queries: PositiveInt = Field(
        20,
        description="Test rows that `brittleness` and `tail_patch` look at, the first ones: each of them takes a "
        "training of its own for each result.",
    )
    wrong: Dropped | None = Field(
        None,
        description="Rows of the training dataset whose label is known to be wrong, for `mislabel`: named as `drop` of "
        "a retraining names rows. The job's record has the numbers, as text.",
    )
    baselines: bool = Field(
        True,
        description="Beside the results: products and cosines of gradients, similarity of activations, the loss, "
        "random numbers, and BM25 where rows are tokens.",
    )
    recipe: Recipe | None = Field(None, description="In place of the model's own.")
    blocks: TogetherTrained = TogetherTrained()

    @property
    def method_name(self) -> str:
        """The measures."""
        return ", ".join(self.measures)

    @property
    def retrains(self) -> bool:
        """Whether any measure needs models trained anew."""
        return bool(RETRAINS & set(self.measures))

    @property
    def needs_recipe(self) -> bool:
        """Whether any measure trains, or takes a step of the training."""
        return self.retrains or bool(ONE_STEP & set(self.measures))

    @model_validator(mode="after")
    def _wrong_labels_are_given(self) -> Self:
        if "mislabel" in self.measures and self.wrong is None:
            raise ValueError(
                "measure 'mislabel' needs 'wrong', the rows of the training dataset whose labels are known to be "
                "wrong: plant some by datasets.derive(…, relabel=…), or name those that were found by hand"
            )
        if self.wrong is not None and "mislabel" not in self.measures:
            raise ValueError("'wrong' is for measure 'mislabel'; add it to 'measures'")
        if len(set(self.measures)) < len(self.measures) or len(set(self.results)) < len(
            self.results
        ):
            raise ValueError("a measure or a result is named twice; name each once")
        if self.precision in ("tf32", "bf16"):
            raise ValueError(
                f"'precision' {self.precision} can't train; use 'float32' or 'float64'"
            )
        return self


class QualityRow(Answer):
    """One measure of one result, at one λ, or of one baseline."""

    result: str = Field(description="Id of the job, or the name of the baseline.")
    baseline: bool = False
    method: str = Field("", description="For people: method, curvature.")
    damping: float | None = Field(None, description="λ; null of a baseline.")
    measure: str = Field(description="The measure; `recall` comes along with `mislabel`.")
    value: float | None = Field(description="Null where it is not defined; `note` says why.")
    low: float | None = Field(None, description="The interval's ends, 95 %.")
    high: float | None = None
    n: int = Field(0, description="What it is the mean over: test rows, or wrong labels.")
    pearson: float | None = Field(None, description="Of correlations: Pearson's beside Spearman's.")
    interval: str | None = Field(None, description="How the interval was found.")
    note: str | None = None


class Noise(Answer):
    """How far trainings that differ by their seed alone agree."""

    value: float | None
    low: float | None = None
    high: float | None = None
    ceiling: float | None = Field(
        None, description="About what a score without any error would reach, with so many repeats."
    )
    repeats: int
    note: str | None = None


class QualityReport(Answer):
    """What a quality job found."""

    rows: list[QualityRow]
    noise: Noise | None = Field(None, description="Of `lds`.")
    trained: int = Field(0, description="Models that its bank holds.")
    warnings: list[str] = []


class MeasuredQuality(Answer):
    """What was last measured of a model's results with this method and λ."""

    measure: str
    damping: float = Field(description="λ.")
    value: float
    low: float | None = None
    high: float | None = None
    ceiling: float | None = Field(None, description="What noise allows at most, of `lds`.")
    job: str = Field(description="The quality job.")
    measured_at: datetime
    evaluation_mode: list[str] = Field(
        [], description="Layers that its retrainings left in evaluation mode, as dropout."
    )

    @property
    def in_words(self) -> str:
        """A line for people."""
        known = self.low is not None and self.high is not None
        interval = f" [{self.low:.3f}, {self.high:.3f}]" if known else ""
        noise = "" if self.ceiling is None else f"; noise allows about {self.ceiling:.2f}"
        mode = ", of models retrained in evaluation mode" if self.evaluation_mode else ""
        return f"{self.measure} {self.value:.3f}{interval} at λ = {self.damping:g}{noise}{mode}, measured by {self.job}"
