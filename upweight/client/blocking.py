"""`Client`: each call returns when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from upweight.client.blobs import Blobs
from upweight.client.computations import (
    Model,
    factors,
    gradients,
    influences,
    products,
    self_influences,
    solutions,
)
from upweight.client.datasets import Datasets
from upweight.client.indexes import Indexes
from upweight.client.jobs import Jobs
from upweight.client.models import Models
from upweight.client.options import InfluenceOptions, Options, VectorsOptions
from upweight.client.quality import QualityOptions, evaluate, tune
from upweight.client.request import Choice
from upweight.client.retraining import BanksOfClient, retrain
from upweight.client.service import access, ready
from upweight.client.webhooks import Webhooks
from upweight.http.connection import Connection, Retries
from upweight.http.transport import Transport
from upweight.progress import Bars
from upweight.results.blocking import (
    FactorsResult,
    GradientsResult,
    InfluenceResult,
    ProductsResult,
    SelfInfluenceResult,
)
from upweight.results.quality import QualityTable, Tuning
from upweight.results.rows import RowChoice
from upweight.schema import Access, Health, Measure, ModelRecord

if TYPE_CHECKING:
    import httpx2


class Client:
    """Talks to an Upweight service.

    `url` and `api_key` come from UPWEIGHT_URL (default http://127.0.0.1:8765) and UPWEIGHT_API_KEY if not given.
    `timeout`: seconds without a byte, or an `httpx2.Timeout`. `retries`: how often a call is sent again after a
    lost connection or a 429, 502, 503 or 504; what creates carries an Idempotency-Key, so it creates once.
    `progress`: bars on stderr; None draws them on a terminal only. `transport`: an httpx2 transport, for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | httpx2.Timeout | None = None,
        retries: int = Retries.attempts,
        transport: httpx2.BaseTransport | None = None,
        progress: bool | None = None,
    ) -> None:
        """Takes the address and the key; the first call connects. The class says what each argument is."""
        self.connection = Connection.of(url, api_key, timeout, retries)
        self._link = Transport(self.connection, transport)
        self._bars = Bars(progress)
        self.blobs = Blobs(self._link, self._bars)
        self.models = Models(self._link, self._bars)
        self.datasets = Datasets(self._link, self._bars)
        self.jobs = Jobs(self._link, self._bars)
        self.indexes = Indexes(self._link, self._bars)
        self.banks = BanksOfClient(self._link)
        self.webhooks = Webhooks(self._link)

    def compute_influences(
        self,
        model: Model,
        train: Choice,
        test: Choice | None = None,
        *,
        inversion_method: str | Any = None,
        **options: Unpack[InfluenceOptions],
    ) -> InfluenceResult:
        """The influence of training rows on test rows; positive means that the row helps.

        `train`, `test`: a record, an id, a name, or `{"dataset": …, "rows": …}`; `train_rows` and `test_rows` pick
        rows (`"0:100"`, a slice, a range, numbers). The Hessian is over all rows of `train`, or over `hessian_on`;
        with `input_data`, the influence is that of its rows, and the Hessian is over `train`. `factors`: a result or
        job whose factors are taken, with its λ and method; `test` is then theirs, and may be left out.
        `inversion_method`: `direct`, `cg`, `lissa`, `arnoldi`, `nystroem`. `**options` has λ
        (`hessian_regularization`), the parameters of the method (`rtol`, `maxiter`, …), and those of the job:
        batch_size, curvature, labels, name, note, precision, priority, reuse, seed, timeout_s, webhook. What both have
        (`batch_size` and `seed` of `lissa`) is the method's. `precision` is by default the model's own: a float64
        model is computed in float64, one in half precision in float32. `curvature` is the kind of matrix that is
        inverted: `hessian`, `gauss_newton`, `fisher`, `empirical_fisher`.
        `keep`: `{"matrix": True, "top": 0, "mean": False, "factors": False}`, and what differs from that.
        `aggregate`: what is added up before it is stored, `{"test": "y", "train": "source"}`: a row for each value of
        the test column, a column for each of the training column, named in `result.groups`. `"mean"` and `"sum"` make
        one of all test rows, `"sum"` of all training rows. `train_where`, `test_where`: rows by metadata or labels.
        `measurement`: what of a test row is explained, `loss`, `margin`, `{"name": "logit", "class": 3}`, or the
        log-probability of a part of its targets, `{"name": "span", "start": 4, "end": 9}`.
        `scores_by`: `"layer"` or `"token"` also store the parts of each influence, by module and by position of the
        training row, in `result.by_layer` (with `result.layer_names`) and `result.by_token`.
        `wait=False` returns at once; `timeout` bounds the waiting, not the job. `dry_run=True` starts nothing: the
        result has an `estimate` alone (`seconds`, `bytes`, `memory_bytes`).
        """
        flow = influences(
            self._bars, self.connection.hold, model, train, test, inversion_method, **options
        )
        return InfluenceResult(self._link, self._bars, self._link.run(flow))

    def compute_influence_factors(
        self,
        model: Model,
        train: Choice,
        test: Choice,
        *,
        inversion_method: str | Any = "direct",
        test_rows: RowChoice | None = None,
        **options: Unpack[Options],
    ) -> FactorsResult:
        """(H + λI)⁻¹ ∇L(z_test), a row a test row: `.x` and `.info`. For the keywords see `compute_influences`."""
        flow = factors(
            self._bars,
            self.connection.hold,
            model,
            train,
            test,
            inversion_method,
            test_rows,
            options,
        )
        return FactorsResult(self._link, self._bars, self._link.run(flow))

    def solve_hvp(
        self,
        inversion_method: str | Any,
        model: Model,
        train: Choice,
        b: Any,
        **options: Unpack[Options],
    ) -> FactorsResult:
        """x with (H + λI) x = b. `b`: (rows, parameters), one vector, a digest, or a result with vectors."""
        flow = solutions(
            self._bars, self.connection.hold, inversion_method, model, train, b, options
        )
        return FactorsResult(self._link, self._bars, self._link.run(flow))

    def compute_gradients(
        self,
        model: Model,
        data: Choice,
        *,
        rows: RowChoice | None = None,
        where: Mapping[str, Any] | None = None,
        parameters: str | Sequence[str] | None = None,
        **options: Unpack[VectorsOptions],
    ) -> GradientsResult:
        """∇m(z) of each row, without a curvature: `.x` is (rows, parameters), fetched by slice.

        `rows`, `where`: some of the dataset's rows. `parameters`: globs over the model's selected parameters, in whose
        order the columns are. `measurement`: in place of the loss. A result is taken by `solve_hvp` as right-hand
        sides, by `compute_hvps` as vectors, and by `compute_influences(factors=…)` as it is: gradient products.
        """
        flow = gradients(
            self._bars, self.connection.hold, model, data, rows, where, parameters, options
        )
        return GradientsResult(self._link, self._bars, self._link.run(flow))

    def compute_hvps(
        self,
        model: Model,
        train: Choice,
        vectors: Any,
        *,
        train_rows: RowChoice | None = None,
        hessian_regularization: float = 0.0,
        **options: Unpack[VectorsOptions],
    ) -> ProductsResult:
        """(C + λI) v for each vector: `.x` is (vectors, parameters).

        `vectors`: an array (k, parameters), one vector, a digest, a result with factors, gradients or products, or the
        record of a dataset whose one input has a vector a row. C is the mean over `train`, or over its `train_rows`.
        `curvature`: any kind and structure; λ is a number.
        """
        flow = products(
            self._bars,
            self.connection.hold,
            model,
            train,
            vectors,
            train_rows,
            hessian_regularization,
            options,
        )
        return ProductsResult(self._link, self._bars, self._link.run(flow))

    def self_influences(
        self,
        model: Model,
        train: Choice,
        *,
        inversion_method: str | Any = "direct",
        train_rows: RowChoice | None = None,
        **options: Unpack[Options],
    ) -> SelfInfluenceResult:
        """The influence of each training row on itself. For the keywords see `compute_influences`."""
        flow = self_influences(
            self._bars, self.connection.hold, model, train, inversion_method, train_rows, options
        )
        return SelfInfluenceResult(self._link, self._bars, self._link.run(flow))

    def retrain(
        self,
        model: Model,
        train: Choice,
        *,
        rows: RowChoice | None = None,
        drop: RowChoice | None = None,
        weights: Any = None,
        labels: Any = None,
        test: Choice | None = None,
        test_rows: RowChoice | None = None,
        name: str | None = None,
        recipe: Any = None,
        seed: int = 0,
        timeout: float | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> ModelRecord:
        """Trains a model anew by its recipe on chosen rows; answers the new model, once it is there.

        `rows` and `drop`: numbers of the dataset's rows, as slices, text or arrays. `weights`: a factor of each row's
        loss, and `labels`: labels in place of the dataset's; arrays with an entry for each of its rows, or
        {row: value}. `test`: rows on which the model is measured, before and after: `model.training.metrics`.
        `name`: by default the parent's, with `-retrained`. `recipe`: in place of the model's. `seed` is added to the
        recipe's. `options`: fields of the job, such as `precision`, `priority`.
        """
        flow = retrain(
            self._bars, self.connection.hold, model, train, rows=rows, drop=drop, weights=weights,
            labels=labels, test=test, test_rows=test_rows, name=name, recipe=recipe, seed=seed,
            timeout=timeout, progress=progress, **options,
        )  # fmt: skip
        return self._link.run(flow)

    def evaluate(
        self,
        results: Any,
        measure: Measure | Sequence[Measure] = "lds",
        subsets: int = 100,
        share: float = 0.5,
        seed: int = 0,
        **options: Unpack[QualityOptions],
    ) -> QualityTable:
        """How far results predict retraining, in a table with intervals, beside plain baselines.

        `results`: handles, records or ids of influences that keep their matrix, all of one model and the same rows.
        `measure`: `lds`, `loo`, `mislabel` (with `wrong`: rows of the training data whose labels are wrong),
        `brittleness`, `tail_patch`, or several. The model has a recipe (`models.register(…, recipe=…)`), or one is
        given here. Models are trained on `subsets` random subsets with a `share` of the rows, `repeats` (2) times
        each with other seeds; what was trained once is used again.
        """
        flow = evaluate(
            self._bars, self.connection.hold, results, measure, subsets, share, seed, options
        )
        return self._link.run(flow)

    def tune(
        self,
        model: Model,
        train: Choice,
        test: Choice,
        *,
        methods: Sequence[str | Mapping[str, Any]] | None = None,
        dampings: Sequence[Any] | None = None,
        measure: Measure = "lds",
        subsets: int = 100,
        share: float = 0.5,
        seed: int = 0,
        train_rows: RowChoice | None = None,
        test_rows: RowChoice | None = None,
        **options: Unpack[QualityOptions],
    ) -> Tuning:
        """Sweeps methods and λ's in one call, and says which to use: `.best` are keywords for `compute_influences`.

        `methods`: names, or keywords of `compute_influences` such as `{"inversion_method": "cg", "curvature":
        "gauss_newton"}`; by default Gauss-Newton, exactly or by cg, and EK-FAC. `dampings`: λ's for each, by default
        0.001 to 10 times the mean eigenvalue. `.why` is a sentence, `.table` has all that was measured.
        """
        flow = tune(
            self._bars, self.connection.hold, model, train, test, methods, dampings, measure, subsets, share, seed,
            train_rows, test_rows, options,
        )  # fmt: skip
        return self._link.run(flow)

    def access(self) -> Access:
        """The namespace and role of the key, as the service sees them."""
        return self._link.run(access())

    def health(self) -> Health:
        """Whether the service can take and do jobs, and which part it lacks."""
        return self._link.run(ready())

    def close(self) -> None:
        """Closes the connections."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection.url}>"
