"""`Client`: each call returns when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from upweight.client.blobs import Blobs
from upweight.client.computations import (
    Computation,
    Damping,
    Model,
    hessian_rows,
    influences,
    solutions,
)
from upweight.client.datasets import Datasets
from upweight.client.jobs import Jobs
from upweight.client.models import Models
from upweight.client.request import Choice, selection
from upweight.client.service import access, ready
from upweight.client.webhooks import Webhooks
from upweight.http.connection import Connection, Retries
from upweight.http.transport import Transport
from upweight.progress import Bars
from upweight.results.blocking import FactorsResult, InfluenceResult, Result, SelfInfluenceResult
from upweight.results.rows import RowChoice
from upweight.schema import Access, Health, JobRecord


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
        self.connection = Connection.of(url, api_key, timeout, retries)
        self._link = Transport(self.connection, transport)
        self._bars = Bars(progress)
        self.blobs = Blobs(self._link, self._bars)
        self.models = Models(self._link, self._bars)
        self.datasets = Datasets(self._link, self._bars)
        self.jobs = Jobs(self._link, self._bars)
        self.webhooks = Webhooks(self._link)

    def compute_influences(
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
        factors: str | JobRecord | Result | None = None,
        keep: Mapping[str, Any] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        progress: bool | None = None,
        **parameters: Any,
    ) -> InfluenceResult:
        """The influence of training rows on test rows; positive means that the row helps.

        `train`, `test`: a record, an id, a name, or `{"dataset": …, "rows": …}`; `train_rows` and `test_rows` pick
        rows (`"0:100"`, a slice, a range, numbers). The Hessian is over all rows of `train`, or over `hessian_on`;
        with `input_data`, the influence is that of its rows, and the Hessian is over `train`. `factors`: a result or
        job whose factors are taken, with its λ and method; `test` is then theirs, and may be left out.
        `inversion_method`: `direct`, `cg`, `lissa`, `arnoldi`; `**parameters` are those of the method (`rtol`,
        `maxiter`, …) and of the job: batch_size, labels, precision, priority, reuse, seed, timeout_s, webhook. What
        both have (`batch_size` and `seed` of `lissa`) is the method's. `precision` is by default the model's own:
        a float64 model is computed in float64, one in half precision in float32.
        `keep`: `{"matrix": True, "top": 0, "mean": False, "factors": False}`, and what differs from that.
        `wait=False` returns at once; `timeout` bounds the waiting, not the job.
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
        return InfluenceResult(self._link, self._bars, self._link.run(flow))

    def compute_influence_factors(
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
    ) -> FactorsResult:
        """(H + λI)⁻¹ ∇L(z_test), a row a test row: `.x` and `.info`. For the keywords see `compute_influences`."""
        computation = Computation(
            "factors", model, train, inversion_method, hessian_regularization, parameters,
            hessian_perturbation, None, hessian_on, wait, timeout, progress,
        )  # fmt: skip
        chosen = selection(test, test_rows)
        flow = computation.run(self._bars, self.connection.hold, test=chosen)
        return FactorsResult(self._link, self._bars, self._link.run(flow))

    def solve_hvp(
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
    ) -> FactorsResult:
        """x with (H + λI) x = b. `b`: (rows, parameters), one vector, or a digest; `.x` has the same rows."""
        computation = Computation(
            "ihvp", model, train, inversion_method, hessian_regularization, parameters,
            hessian_perturbation, None, hessian_on, wait, timeout, progress,
        )  # fmt: skip
        flow = solutions(self._bars, self.connection.hold, computation, b)
        return FactorsResult(self._link, self._bars, self._link.run(flow))

    def self_influences(
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
    ) -> SelfInfluenceResult:
        """The influence of each training row on itself. For the keywords see `compute_influences`."""
        computation = Computation(
            "self_influences", model, train, inversion_method, hessian_regularization, parameters,
            hessian_perturbation, train_rows, hessian_on, wait, timeout, progress,
        )  # fmt: skip
        flow = computation.run(self._bars, self.connection.hold)
        return SelfInfluenceResult(self._link, self._bars, self._link.run(flow))

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
