"""The methods that apply (H + λI)⁻¹, a class each: its parameters, and its facts, without its numerics.

A union discriminated by `method`. Who sizes, plans, names or lists methods asks for a fact, never for a method by name.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from upweight.schema.base import Digest, PositiveInt, Request
from upweight.schema.method import VECTORS_OF_EACH, FittedMethod, InversionMethod

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


VECTORS_COMPARED = 16.0  # held while two ways to multiply with H are compared, on two vectors
FINEST_SINGLE = 2e-6  # relative residual that float32 tells


class Direct(FittedMethod):
    """The full Hessian, factorised. Exact; for models up to about 10,000 selected parameters."""

    label = "direct"
    answer = "exact"
    suggested = True
    builds_matrix = True
    solve_only = frozenset({"spectrum"})

    method: Literal["direct"] = "direct"
    spectrum: Literal["auto", "all", "extremes"] = Field(
        "auto",
        description="Which eigenvalues of H the info has: the smallest and the largest, or `all` of them, in "
        "4/3 p³ operations more. `auto` means all up to 1,000 parameters.",
    )
    unsolved: Unsolved = "fail"

    @property
    def fit_is_random(self) -> bool:
        """No draws."""
        return False

    def fit_products(self, parameters: int) -> float:
        """Of building H: half of a symmetric matrix, in products that share most of their work."""
        return parameters / 6.0


class Arnoldi(FittedMethod):
    """The eigenpairs of H largest in absolute value: x ≈ V (D + λ)⁻¹ Vᵀ b."""

    label = "Arnoldi"
    answer = "low rank"
    rank_field = "rank_estimate"
    solve_only = frozenset({"complement", "unsolved"})
    EXTRA_PRODUCTS: ClassVar[int] = 20  # until as many pairs have converged

    method: Literal["arnoldi"] = "arnoldi"
    rank_estimate: PositiveInt = Field(
        10,
        description="Number of eigenpairs; more than there are parameters means all of them, and the info says so.",
    )
    tol: PositiveTolerance = Field(
        1e-6, description="Relative residual at which an eigenpair is done."
    )
    krylov_dimension: PositiveInt | None = Field(
        None,
        description="Size of the search space; null means 2 rank + 20, or as much as the operator's memory for a "
        "block of the job holds. More than that is refused.",
    )
    eigen_computation_on_gpu: bool | None = Field(
        None, description="Null means yes where the job runs on a GPU."
    )
    complement: bool = Field(
        False,
        description="Divide the part of b outside the eigenvectors by λ instead of dropping it (needs λ > 0).",
    )
    unsolved: Unsolved = "fail"

    @property
    def needs_damping(self) -> str | None:
        """What lies outside the eigenvectors is divided by λ."""
        return "complement" if self.complement else None

    def fit_products(self, parameters: int) -> float:
        """Two for each eigenpair."""
        return 2.0 * self.rank_estimate + self.EXTRA_PRODUCTS

    def least_vectors(self, parameters: int) -> int:
        """A basis with the eigenvectors beside it, or these with what H makes of them. As the engine's."""
        rank = min(self.rank_estimate, parameters)
        basis = min(parameters, self.krylov_dimension or rank + 1)
        return max(basis + rank + 3, 3 * rank + 4)

    def vectors_held(self, together: int, *, single: bool) -> float:
        """A basis, and products or the eigenvectors beside it; later these, and what H makes of them."""
        rank, basis = self.rank_estimate, self.krylov_dimension or 2 * self.rank_estimate + 20
        growing = basis + max(VECTORS_COMPARED, rank + 3.0) + together
        return max(growing, 3.0 * rank + 4.0 * together)


class NystroemInversion(FittedMethod):
    """A random sketch of H in one pass: H ≈ U diag(d) Uᵀ, x ≈ U (d + λ)⁻¹ Uᵀ b + (b − U Uᵀ b) / λ. Needs λ > 0."""

    label = "Nyström"
    answer = "low rank"
    rank_field = "rank"
    solve_only = frozenset({"unsolved"})

    method: Literal["nystroem"] = "nystroem"
    rank: PositiveInt = Field(
        32,
        description="Number of random directions; more than there are parameters means all of them, which is exact.",
    )
    unsolved: Unsolved = "fail"

    @property
    def needs_damping(self) -> str | None:
        """What lies outside the sketch is divided by λ."""
        return self.method

    def fit_products(self, parameters: int) -> float:
        """One for each direction."""
        return float(min(self.rank, parameters))


# What has a fit, and so preconditions `cg`.
_Fitted = Direct | Arnoldi | NystroemInversion


class Jacobi(Request):
    """Divides by an estimate of the Hessian's diagonal."""

    name: Literal["jacobi"] = "jacobi"


class Nystroem(Request):
    """A randomised low-rank model of the Hessian."""

    name: Literal["nystroem"] = "nystroem"
    rank: PositiveInt = 32


class StructuredPreconditioner(Request):
    """What a structure keeps of the Gauss-Newton matrix, or of the curvature itself, in closed form: two passes."""

    name: ClassVar[str] = "structured"  # the engine's

    structure: Literal["ekfac", "kfac", "diagonal"]


def _by_name(value: Any) -> Any:
    """A bare name stands for the preconditioner of that name, or for the method."""
    if not isinstance(value, str):
        return value
    named = [cls.model_fields["name"].default for cls in (Jacobi, Nystroem)]
    methods = [cls.model_fields["method"].default for cls in get_args(_Fitted)]
    if value in get_args(StructuredPreconditioner.model_fields["structure"].annotation):
        return {"structure": value}
    return {"method" if value in methods and value not in named else "name": value}


def _spelling(value: Any) -> str:
    """Tags that no field is called: the words for an error look for fields."""
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if "structure" in given:
        return "as a structure"
    return "as a method" if "method" in given else "as a preconditioner"


Preconditioner = Annotated[
    Annotated[Jacobi | Nystroem, Field(discriminator="name"), Tag("as a preconditioner")]
    | Annotated[_Fitted, Field(discriminator="method"), Tag("as a method")]
    | Annotated[StructuredPreconditioner, Tag("as a structure")],
    Discriminator(_spelling),
    BeforeValidator(_by_name),
]


class ConjugateGradient(InversionMethod):
    """Conjugate gradient on all right-hand sides at once. Stops a right-hand side at ‖r‖ ≤ max(rtol ‖b‖, atol)."""

    label = "conjugate gradient"
    answer = "iterative"
    guess_field = "x0"
    solve_only = frozenset({"x0", "rtol", "atol", "maxiter", "unsolved"})
    together = 128  # they share what they find out: few blocks are better than many
    # Products until it converges to 1e-5: for one right-hand side, and how they grow. As the engine's (a test says so).
    FIRST_PRODUCTS: ClassVar[float] = 43.0
    SHARING: ClassVar[float] = 0.6

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
        None,
        description="`jacobi`, `nystroem` with a `rank`, any `method` that finds out something about H first, with its "
        'parameters: `{"method": "arnoldi", "rank_estimate": 50}`, or the Gauss-Newton matrix in closed form by a '
        '`structure`: `{"structure": "ekfac"}`. Null: what makes the solution quicker.',
    )
    unsolved: Unsolved = "fail"

    @model_validator(mode="after")
    def _some_tolerance(self) -> Self:
        if self.rtol == 0.0 and self.atol == 0.0:
            raise ValueError(
                "'rtol' and 'atol' are both 0, which no residual reaches; give one of them"
            )
        return self

    @property
    def has_fit(self) -> bool:
        """A preconditioner that is asked for."""
        return self.preconditioner is not None

    @property
    def fit_is_damped(self) -> bool:
        """Not one in closed form."""
        return not isinstance(self.preconditioner, StructuredPreconditioner)

    @property
    def needs_damping(self) -> str | None:
        """A preconditioner of low rank divides the rest by λ."""
        inner = self.preconditioner
        low_rank = inner.answer == "low rank" if isinstance(inner, InversionMethod) else False
        return "preconditioner" if low_rank or isinstance(inner, Nystroem) else None

    @property
    def building(self) -> InversionMethod | None:
        """Its preconditioner, where that does."""
        inner = self.preconditioner
        return inner.building if isinstance(inner, InversionMethod) else None

    def fit_products(self, parameters: int) -> float:
        """Those of its preconditioner."""
        inner = self.preconditioner
        return inner.fit_products(parameters) if isinstance(inner, InversionMethod) else 0.0

    def products(self, right_hand_sides: int, together: int) -> float:
        """To a tolerance of 1e-5, or `maxiter`."""
        limit = self.maxiter or 10**9
        one_block = min(self.FIRST_PRODUCTS * together**self.SHARING, limit * together)
        return one_block * right_hand_sides / together

    def vectors_held(self, together: int, *, single: bool) -> float:
        """Of ways that are compared, or at work."""
        at_work = self.vectors_at_work(together, single=single)
        return max(VECTORS_COMPARED + 2.0 * together, at_work)

    def vectors_at_work(self, together: int, *, single: bool) -> float:
        """Residuals finer than float32 are told in float64, where a vector counts twice."""
        return 11.0 * together + 5.0 if self.refines(single=single) else 7.0 * together

    def vectors_of_each(self, *, single: bool) -> float:
        """More where residuals are in float64."""
        return 11.0 if self.refines(single=single) else VECTORS_OF_EACH

    def refines(self, *, single: bool) -> bool:
        """As if `atol` were 0: how small it is beside a right-hand side is not known before."""
        return single and self.rtol < FINEST_SINGLE


class Lissa(InversionMethod):
    """Stochastic Neumann series: h ← b + (1 − dampen) h − (H_j + λI) h / scale; the answer is h / scale."""

    label = "LiSSA"
    answer = "iterative"
    guess_field = "h0"
    together = 256  # they share the random batches, and eigenvectors

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

    def products(self, right_hand_sides: int, together: int) -> float:
        """A step multiplies each right-hand side once."""
        return float(self.maxiter * right_hand_sides)

    def vectors_held(self, together: int, *, single: bool) -> float:
        """With the Lanczos steps that find a scale."""
        steps = 20.0 if self.scale == "auto" else 0.0
        return VECTORS_COMPARED + max(2.0, steps - 12.0) + 9.0 * together


_Methods = Direct | ConjugateGradient | Lissa | Arnoldi | NystroemInversion
METHODS: dict[str, type[InversionMethod]] = {
    cls.model_fields["method"].default: cls for cls in get_args(_Methods)
}
Inversion = Annotated[_Methods, Field(discriminator="method")]


def owners_of(parameter: str) -> list[str]:
    """The methods that take a parameter of this name; an error message names them."""
    return [
        method
        for method, cls in METHODS.items()
        if parameter in cls.model_fields and parameter != "method"
    ]


def methods_in_words(*, building_h: bool | None = None, quote: str = "") -> str:
    """The methods as alternatives, "a, b or c": all, or those that do or do not build H."""
    chosen = [
        f"{quote}{name}{quote}"
        for name, cls in METHODS.items()
        if building_h is None or building_h == cls.builds_matrix
    ]
    *most, last = chosen
    return f"{', '.join(most)} or {last}" if most else last


class Parameters(TypedDict, total=False):
    """The methods' parameters by keyword, as the SDK takes them: for type checkers and editors.

    A first guess may be an array. `batch_size` and `seed` are the job's as well, and stand there.
    """

    atol: float
    complement: bool
    dampen: float
    eigen_computation_on_gpu: bool | None
    h0: Any
    krylov_dimension: int | None
    maxiter: int | None
    preconditioner: Any
    rank: int
    rank_estimate: int
    rtol: float
    scale: float | Literal["auto"]
    spectrum: Literal["auto", "all", "extremes"]
    tol: float
    unsolved: Unsolved
    x0: Any
