"""The four ways to apply (H + λI)⁻¹, and the parameters of each: a union discriminated by `method`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from upweight.schema.base import Digest, Request

PositiveInt = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Tolerance = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveTolerance = Annotated[float, Field(gt=0.0, le=1.0)]


Unsolved = Annotated[
    Literal["fail", "keep"],
    Field(
        description="Where H + λI has negative curvature: `fail` ends the job and names a λ that would do; `keep` "
        "stores what the method came to, with the status `negative_curvature`. A right-hand side that is out of "
        "iterations, or at what rounding allows, never fails a job: its status says so."
    ),
]


class Direct(Request):
    """The full Hessian, factorised. Exact; for models up to about 10,000 selected parameters."""

    method: Literal["direct"] = "direct"
    spectrum: Literal["auto", "all", "extremes"] = Field(
        "auto",
        description="Which eigenvalues of H the info has: the smallest and the largest, or `all` of them, in "
        "4/3 p³ operations more. `auto` means all up to 1,000 parameters.",
    )
    unsolved: Unsolved = "fail"


class Jacobi(Request):
    """Divides by an estimate of the Hessian's diagonal."""

    name: Literal["jacobi"] = "jacobi"


class Nystroem(Request):
    """A randomised low-rank model of the Hessian."""

    name: Literal["nystroem"] = "nystroem"
    rank: PositiveInt = 32


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Preconditioner = Annotated[
    Jacobi | Nystroem, Field(discriminator="name"), BeforeValidator(_by_name)
]


class ConjugateGradient(Request):
    """Conjugate gradient on all right-hand sides at once. Stops a right-hand side at ‖r‖ ≤ max(rtol ‖b‖, atol)."""

    method: Literal["cg"] = "cg"
    x0: Digest | None = Field(
        None,
        description="First guess: a safetensors blob with one tensor `x0` of shape "
        "(right-hand sides, parameters). Null begins at 0.",
    )
    rtol: Tolerance = Field(
        1e-7,
        description="Relative residual at which a right-hand side is done. What float32 cannot tell, below some "
        "2e-6, is reached with residuals in float64; the factors are float64 then.",
    )
    atol: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Absolute residual at which a right-hand side is done, however small it is itself; 0 leaves it to "
        "`rtol` alone.",
    )
    maxiter: PositiveInt | None = Field(
        None,
        description="Iterations at most; null means 10 times the number of parameters, at least 50.",
    )
    preconditioner: Preconditioner | None = Field(
        None, description="`jacobi`, or `nystroem` with a `rank`."
    )
    unsolved: Unsolved = "fail"

    @model_validator(mode="after")
    def _some_tolerance(self) -> Self:
        if self.rtol == 0.0 and self.atol == 0.0:
            raise ValueError(
                "'rtol' and 'atol' are both 0, which no residual reaches; give one of them"
            )
        return self


class Lissa(Request):
    """Stochastic Neumann series: h ← b + (1 − dampen) h − (H_j + λI) h / scale; the answer is h / scale."""

    method: Literal["lissa"] = "lissa"
    maxiter: PositiveInt = Field(1000, description="Steps at most.")
    dampen: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Extra damping: the fixed point is (H + (λ + dampen·scale) I)⁻¹ b."
    )
    scale: Annotated[float, Field(gt=0.0)] | Literal["auto"] = Field(
        "auto",
        description="Must exceed half the largest eigenvalue of H + λI, with random batches of a batch's; `auto` "
        "estimates a safe one, which the info tells.",
    )
    h0: Digest | None = Field(
        None,
        description="First guess: a safetensors blob with one tensor `h0` of shape "
        "(right-hand sides, parameters), in units of scale · x: choose `scale` with it. Null begins at b.",
    )
    rtol: PositiveTolerance = Field(
        1e-4, description="Largest relative change at which the course stops."
    )
    batch_size: PositiveInt | None = Field(
        None, description="Rows of the random batch of a step; null means all rows."
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="Seed of the batches; null means the job's seed."
    )
    unsolved: Unsolved = "fail"


class Arnoldi(Request):
    """The eigenpairs of H largest in absolute value: x ≈ V (D + λ)⁻¹ Vᵀ b."""

    method: Literal["arnoldi"] = "arnoldi"
    rank_estimate: PositiveInt = Field(
        10,
        description="Number of eigenpairs; more than there are parameters means all of them, and the info says so.",
    )
    tol: PositiveTolerance = Field(
        1e-6, description="Relative residual at which an eigenpair is done."
    )
    krylov_dimension: PositiveInt | None = Field(
        None, description="Size of the search space; null means 2 rank + 20."
    )
    eigen_computation_on_gpu: bool | None = Field(
        None, description="Null means yes where the job runs on a GPU."
    )
    complement: bool = Field(
        False,
        description="Divide the part of b outside the eigenvectors by λ instead of dropping it (needs λ > 0).",
    )
    unsolved: Unsolved = "fail"


METHODS: dict[str, type[Request]] = {
    "direct": Direct,
    "cg": ConjugateGradient,
    "lissa": Lissa,
    "arnoldi": Arnoldi,
}

Inversion = Annotated[Direct | ConjugateGradient | Lissa | Arnoldi, Field(discriminator="method")]


def owners_of(parameter: str) -> list[str]:
    """The methods that take a parameter of this name; an error message names them."""
    return [
        method
        for method, cls in METHODS.items()
        if parameter in cls.model_fields and parameter != "method"
    ]
