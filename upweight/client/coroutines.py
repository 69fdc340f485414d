"""`AsyncClient`: each call is awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from upweight.client.blobs import AsyncBlobs
from upweight.client.computations import (
    Model,
    factors,
    gradients,
    influences,
    products,
    self_influences,
    solutions,
)
from upweight.client.datasets import AsyncDatasets
from upweight.client.indexes import AsyncIndexes
from upweight.client.jobs import AsyncJobs
from upweight.client.models import AsyncModels
from upweight.client.options import InfluenceOptions, Options, VectorsOptions
from upweight.client.quality import QualityOptions, evaluate, tune
from upweight.client.request import Choice
from upweight.client.retraining import AsyncBanksOfClient, retrain
from upweight.client.service import access, ready
from upweight.client.webhooks import AsyncWebhooks
from upweight.http.connection import Connection, Retries
from upweight.http.transport import AsyncTransport
from upweight.progress import Bars
from upweight.results.coroutines import (
    AsyncFactorsResult,
    AsyncGradientsResult,
    AsyncInfluenceResult,
    AsyncProductsResult,
    AsyncSelfInfluenceResult,
)
from upweight.results.quality import QualityTable, Tuning
from upweight.results.rows import RowChoice
from upweight.schema import Access, Health, Measure, ModelRecord

if TYPE_CHECKING:
    import httpx2


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; lists and events are read with `async for`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | httpx2.Timeout | None = None,
        retries: int = Retries.attempts,
        transport: httpx2.AsyncBaseTransport | None = None,
        progress: bool | None = None,
    ) -> None:
        """Takes the address and the key; the first call connects. The class says what each argument is."""
        self.connection = Connection.of(url, api_key, timeout, retries)
        self._link = AsyncTransport(self.connection, transport)
        self._bars = Bars(progress)
        self.blobs = AsyncBlobs(self._link, self._bars)
        self.models = AsyncModels(self._link, self._bars)
        self.datasets = AsyncDatasets(self._link, self._bars)
        self.jobs = AsyncJobs(self._link, self._bars)
        self.indexes = AsyncIndexes(self._link, self._bars)
        self.banks = AsyncBanksOfClient(self._link)
        self.webhooks = AsyncWebhooks(self._link)

    async def compute_influences(
        self,
        model: Model,
        train: Choice,
        test: Choice | None = None,
        *,
        inversion_method: str | Any = None,
        **options: Unpack[InfluenceOptions],
    ) -> AsyncInfluenceResult:
        """The influence of training rows on test rows; positive means that the row helps.

        The rest is as for `Client.compute_influences`.
        """
        flow = influences(
            self._bars, self.connection.hold, model, train, test, inversion_method, **options
        )
        return AsyncInfluenceResult(self._link, self._bars, await self._link.run(flow))

    async def compute_influence_factors(
        self,
        model: Model,
        train: Choice,
        test: Choice,
        *,
        inversion_method: str | Any = "direct",
        test_rows: RowChoice | None = None,
        **options: Unpack[Options],
    ) -> AsyncFactorsResult:
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
        return AsyncFactorsResult(self._link, self._bars, await self._link.run(flow))

    async def solve_hvp(
        self,
        inversion_method: str | Any,
        model: Model,
        train: Choice,
        b: Any,
        **options: Unpack[Options],
    ) -> AsyncFactorsResult:
        """x with (H + λI) x = b. `b`: (rows, parameters), one vector, a digest, or a result with vectors."""
        flow = solutions(
            self._bars, self.connection.hold, inversion_method, model, train, b, options
        )
        return AsyncFactorsResult(self._link, self._bars, await self._link.run(flow))

    async def compute_gradients(
        self,
        model: Model,
        data: Choice,
        *,
        rows: RowChoice | None = None,
        where: Mapping[str, Any] | None = None,
        parameters: str | Sequence[str] | None = None,
        **options: Unpack[VectorsOptions],
    ) -> AsyncGradientsResult:
        """∇m(z) of each row, without a curvature. The rest is as for `Client.compute_gradients`."""
        flow = gradients(
            self._bars, self.connection.hold, model, data, rows, where, parameters, options
        )
        return AsyncGradientsResult(self._link, self._bars, await self._link.run(flow))

    async def compute_hvps(
        self,
        model: Model,
        train: Choice,
        vectors: Any,
        *,
        train_rows: RowChoice | None = None,
        hessian_regularization: float = 0.0,
        **options: Unpack[VectorsOptions],
    ) -> AsyncProductsResult:
        """(C + λI) v for each vector. The rest is as for `Client.compute_hvps`."""
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
        return AsyncProductsResult(self._link, self._bars, await self._link.run(flow))

    async def self_influences(
        self,
        model: Model,
        train: Choice,
        *,
        inversion_method: str | Any = "direct",
        train_rows: RowChoice | None = None,
        **options: Unpack[Options],
    ) -> AsyncSelfInfluenceResult:
        """The influence of each training row on itself. For the keywords see `compute_influences`."""
        flow = self_influences(
            self._bars, self.connection.hold, model, train, inversion_method, train_rows, options
        )
        return AsyncSelfInfluenceResult(self._link, self._bars, await self._link.run(flow))

    async def retrain(
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
        """As `Client.retrain`, awaited."""
        flow = retrain(
            self._bars, self.connection.hold, model, train, rows=rows, drop=drop, weights=weights,
            labels=labels, test=test, test_rows=test_rows, name=name, recipe=recipe, seed=seed,
            timeout=timeout, progress=progress, **options,
        )  # fmt: skip
        return await self._link.run(flow)

    async def evaluate(
        self,
        results: Any,
        measure: Measure | Sequence[Measure] = "lds",
        subsets: int = 100,
        share: float = 0.5,
        seed: int = 0,
        **options: Unpack[QualityOptions],
    ) -> QualityTable:
        """As `Client.evaluate`."""
        flow = evaluate(
            self._bars, self.connection.hold, results, measure, subsets, share, seed, options
        )
        return await self._link.run(flow)

    async def tune(
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
        """As `Client.tune`."""
        flow = tune(
            self._bars, self.connection.hold, model, train, test, methods, dampings, measure, subsets, share, seed,
            train_rows, test_rows, options,
        )  # fmt: skip
        return await self._link.run(flow)

    async def access(self) -> Access:
        """The namespace and role of the key, as the service sees them."""
        return await self._link.run(access())

    async def health(self) -> Health:
        """Whether the service can take and do jobs, and which part it lacks."""
        return await self._link.run(ready())

    async def close(self) -> None:
        """Closes the connections."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection.url}>"
