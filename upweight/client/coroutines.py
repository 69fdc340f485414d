"""`AsyncClient`: each call is awaited."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from upweight.client.blobs import AsyncBlobs
from upweight.client.computations import (
    Computation,
    Damping,
    Model,
    hessian_rows,
    influences,
    solutions,
)
from upweight.client.datasets import AsyncDatasets
from upweight.client.jobs import AsyncJobs
from upweight.client.models import AsyncModels
from upweight.client.request import Choice, selection
from upweight.client.service import access, ready
from upweight.client.webhooks import AsyncWebhooks
from upweight.http.connection import Connection, Retries
from upweight.http.transport import AsyncTransport
from upweight.progress import Bars
from upweight.results.coroutines import (
    AsyncFactorsResult,
    AsyncInfluenceResult,
    AsyncResult,
    AsyncSelfInfluenceResult,
)
from upweight.results.rows import RowChoice
from upweight.schema import Access, Health, JobRecord


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
        self.connection = Connection.of(url, api_key, timeout, retries)
        self._link = AsyncTransport(self.connection, transport)
        self._bars = Bars(progress)
        self.blobs = AsyncBlobs(self._link, self._bars)
        self.models = AsyncModels(self._link, self._bars)
        self.datasets = AsyncDatasets(self._link, self._bars)
        self.jobs = AsyncJobs(self._link, self._bars)
        self.webhooks = AsyncWebhooks(self._link)

    async def compute_influences(
        self,
        model: Model,
        train: Choice,
        test: Choice | None = None,
        *,
        input_data: Choice | None = None,
        influence_type: Literal["up", "perturbation"] = "up",
        inversion_method: str | Any = None,
        hessian_regularization: Damping = "auto",
        hessian_perturbation: float | None = None,
        hessian_on: Choice | None = None,
        train_rows: RowChoice | None = None,
        test_rows: RowChoice | None = None,
        perturb_at: str | None = None,
        perturb_input: str | None = None,
        factors: str | JobRecord | AsyncResult | None = None,
        keep: Mapping[str, Any] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        progress: bool | None = None,
        **parameters: Any,
    ) -> AsyncInfluenceResult:
        """The influence of training rows on test rows; positive means that the row helps.

        The rest is as for `Client.compute_influences`.
        """
        computation = Computation(
            "influences", model, train if input_data is None else input_data, inversion_method,
            hessian_regularization, parameters, hessian_perturbation, train_rows,
            hessian_rows(train, input_data, hessian_on), wait, timeout, progress,
        )  # fmt: skip
        flow = influences(
            self._bars, self.connection.hold, computation, test=test, test_rows=test_rows,
            influence_type=influence_type, perturb_at=perturb_at, perturb_input=perturb_input,
            factors=factors, keep=keep,
        )  # fmt: skip
        return AsyncInfluenceResult(self._link, self._bars, await self._link.run(flow))

    async def compute_influence_factors(
        self,
        model: Model,
        train: Choice,
        test: Choice,
        *,
        inversion_method: str | Any = "direct",
        hessian_regularization: Damping = "auto",
        hessian_perturbation: float | None = None,
        hessian_on: Choice | None = None,
        test_rows: RowChoice | None = None,
        wait: bool = True,
        timeout: float | None = None,
        progress: bool | None = None,
        **parameters: Any,
    ) -> AsyncFactorsResult:
        """(H + λI)⁻¹ ∇L(z_test), a row a test row: `.x` and `.info`. For the keywords see `compute_influences`."""
        computation = Computation(
            "factors", model, train, inversion_method, hessian_regularization, parameters,
            hessian_perturbation, None, hessian_on, wait, timeout, progress,
        )  # fmt: skip
        chosen = selection(test, test_rows)
        flow = computation.run(self._bars, self.connection.hold, test=chosen)
        return AsyncFactorsResult(self._link, self._bars, await self._link.run(flow))

    async def solve_hvp(
        self,
        inversion_method: str | Any,
        model: Model,
        train: Choice,
        b: Any,
        *,
        hessian_regularization: Damping = "auto",
        hessian_perturbation: float | None = None,
        hessian_on: Choice | None = None,
        wait: bool = True,
        timeout: float | None = None,
        progress: bool | None = None,
        **parameters: Any,
    ) -> AsyncFactorsResult:
        """x with (H + λI) x = b. `b`: (rows, parameters), one vector, or a digest; `.x` has the same rows."""
        computation = Computation(
            "ihvp", model, train, inversion_method, hessian_regularization, parameters,
            hessian_perturbation, None, hessian_on, wait, timeout, progress,
        )  # fmt: skip
        flow = solutions(self._bars, self.connection.hold, computation, b)
        return AsyncFactorsResult(self._link, self._bars, await self._link.run(flow))

    async def self_influences(
        self,
        model: Model,
        train: Choice,
        *,
        inversion_method: str | Any = "direct",
        hessian_regularization: Damping = "auto",
        hessian_perturbation: float | None = None,
        hessian_on: Choice | None = None,
        train_rows: RowChoice | None = None,
        wait: bool = True,
        timeout: float | None = None,
        progress: bool | None = None,
        **parameters: Any,
    ) -> AsyncSelfInfluenceResult:
        """The influence of each training row on itself. For the keywords see `compute_influences`."""
        computation = Computation(
            "self_influences", model, train, inversion_method, hessian_regularization, parameters,
            hessian_perturbation, train_rows, hessian_on, wait, timeout, progress,
        )  # fmt: skip
        flow = computation.run(self._bars, self.connection.hold)
        return AsyncSelfInfluenceResult(self._link, self._bars, await self._link.run(flow))

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
