"""What a job with a curvature consists of, in operations: the one set of counts, of the service's estimates and of the
workers' plans. Each takes them at speeds of its own, assumed, told by earlier jobs, or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from upweight.schema import AttributionJob, Curvature, InfluencesJob, TensorSpec
from upweight.schema.method import VECTORS_OF_EACH, InversionMethod

# Operations a row and parameter: of a gradient; of a product of one vector with C, six matrix products a layer where C
# has the model's second derivative and four where it has not.
GRADIENT_FLOPS, BENT_FLOPS, STRAIGHT_FLOPS = 6.0, 12.0, 8.0
# Of C itself, a row and entry: by products or layer by layer; and of each column that a row adds, half of a product.
BUILDING_FLOPS, COLUMN_FLOPS = 4.0, 1.25
FACTORISING = 1.0 / 3.0  # of p³
DRAWING_GRADIENTS = (
    1.0  # to draw a row's labels: a pass forward, in float64 where the model allows it
)
MEETING_GRADIENTS = 1.0 / 8.0  # of a factor with the mixed derivative of a row
FORMED_OUTPUTS = 64  # of a row, each a column of a curvature; beyond, one is drawn
PASS_SECONDS = 1e-3  # a pass takes so long however little is in it
# How the engine cuts a pass over rows on a CPU, and what of one it keeps for the next (a test says that it does so).
ROWS_AT_ONCE, NARROW_ROWS_AT_ONCE, FEWEST_ROWS = 2048, 8192, 128
VECTORS_AT_ONCE, FEWEST_VECTORS, ROWS_OF_FEW_VECTORS = 64, 8, 16
CACHED_BYTES = 1 << 24
KEPT_PART = 0.5


def rhs_bytes(vector_bytes: int, dampings: int, held: float = VECTORS_OF_EACH) -> int:
    """What an inversion holds for one right-hand side, with one λ `held` vectors. Of all λ's together: solutions, they
    side by side, and C times them."""
    return int((held + 3 * (dampings - 1)) * vector_bytes)


@dataclass(frozen=True)
class RowBytes:
    """What a row takes of memory in a product: its activations, once for itself and once for each vector, and what
    its convolutions keep beside."""

    activations: int
    windows: int = 0

    def wider(self, times: int) -> RowBytes:
        """In numbers of so many times the bytes."""
        return RowBytes(times * self.activations, times * self.windows)

    def of(self, vectors: int) -> int:
        """With so many vectors."""
        return self.activations * (1 + vectors) + self.windows

    def at_once(self, rows: int, vectors: int, budget: int) -> tuple[int, int]:
        """How many rows and vectors the engine takes at a time, within the budget."""
        rows, each = max(1, rows), max(1, self.activations)
        cached = CACHED_BYTES // (each * min(FEWEST_ROWS, rows))
        most = max(FEWEST_VECTORS, min(VECTORS_AT_ONCE, cached))
        while most > 1 and budget // self.of(most) < min(ROWS_OF_FEW_VECTORS, rows):
            most //= 2
        vectors = _evenly(max(1, vectors), most)
        cost = max(1, self.of(vectors))
        within = min(budget, max(FEWEST_ROWS, CACHED_BYTES // (each * vectors)) * cost)
        narrow = min(NARROW_ROWS_AT_ONCE, CACHED_BYTES // cost)
        return _evenly(rows, max(1, min(max(ROWS_AT_ONCE, narrow), within // cost))), vectors

    def kept(self, rows: int, budget: int) -> int:
        """Of all rows, what a pass leaves for the next one: all or nothing."""
        found = self.of(0) * rows
        return found if found <= KEPT_PART * budget else 0

    def passing(self, rows: int, vectors: int, budget: int) -> int:
        """In the middle of a pass: what is kept, or of the rows at hand, and the vectors on their way."""
        at_once, together = self.at_once(rows, vectors, budget)
        here = self.kept(rows, budget) or self.of(0) * at_once
        return here + self.activations * at_once * together


def _evenly(total: int, most: int) -> int:
    """The largest part, where parts are as large as each other and `most` at most."""
    parts = -(-total // most)
    return -(-total // parts)


@dataclass(frozen=True)
class Work:
    """Of a part of a job. `gradients`: of rows; `products`: of a row and a vector with the Hessian, others as parts of
    it; `flops`: of plain matrix products; `passes`: over all rows."""

    gradients: float = 0.0
    products: float = 0.0
    flops: float = 0.0
    passes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.gradients + other.gradients,
            self.products + other.products,
            self.flops + other.flops,
            self.passes + other.passes,
        )

    def times(self, count: float) -> Work:
        """So often."""
        return Work(
            self.gradients * count, self.products * count, self.flops * count, self.passes * count
        )

    def operations(self, used: float) -> float:
        """All of it, where a row uses so many parameters: each as often as it has positions."""
        by_rows = GRADIENT_FLOPS * self.gradients + BENT_FLOPS * self.products
        return by_rows * used + self.flops


NOTHING = Work()


@dataclass(frozen=True)
class Size:
    """How much there is to do: parameters in all and of each module, training rows of C and to be scored, columns that
    a row adds to C, numbers of one influence, and positions of a row, each of which uses all parameters."""

    parameters: int
    modules: tuple[int, ...]
    hessian_rows: int
    train_rows: int
    columns: int = 1
    entries: int = 1
    positions: int = 1

    @property
    def used(self) -> float:
        """Parameters that a row uses, as often as it does."""
        return float(self.parameters * self.positions)


@dataclass(frozen=True)
class Counts:
    """Of a job with one λ: what is found out about C, what takes it apart, and what each right-hand side and each
    training row takes; `contraction` is what of the last grows with the number of λ's."""

    fit: Work
    apart: Work
    right_hand_side: Work
    train_row: Work
    contraction: Work = field(default=NOTHING)

    def total(self, right_hand_sides: int, train_rows: int, dampings: int = 1) -> Work:
        """Of the whole job."""
        solving = self.right_hand_side.times(right_hand_sides * dampings)
        scoring = self.train_row + self.contraction.times(dampings - 1)
        return self.fit + self.apart + solving + scoring.times(train_rows)


def product_work(curvature: Curvature, rows: int, at_once: int = 1) -> Work:
    """Of one vector with C by a pass over the rows, taken together with others."""
    flops = BENT_FLOPS if curvature.differentiates_twice else STRAIGHT_FLOPS
    return Work(products=rows * flops / BENT_FLOPS, passes=1.0 / max(1, at_once))


def form_work(curvature: Curvature, size: Size) -> Work:
    """Of a curvature's closed form."""
    rows, columns = size.hessian_rows, size.columns
    found = Work(gradients=rows * curvature.fit_gradients * columns)
    if curvature.has_exact_blocks:
        squares = sum(each**2 for each in size.modules)
        found += Work(flops=rows * columns * 2.0 * squares)
    return found


def built_work(curvature: Curvature, size: Size) -> Work:
    """Of all entries of C."""
    p, each = size.parameters, COLUMN_FLOPS * size.columns
    built = BUILDING_FLOPS if curvature.differentiates_twice else min(BUILDING_FLOPS, each)
    return Work(flops=built * size.hessian_rows * size.positions * p * p)


def counted(
    request: AttributionJob,
    size: Size,
    right_hand_sides: int,
    together: int,
    inversion: InversionMethod | None = None,
) -> Counts:
    """Of a job with so many right-hand sides, by its method or by another. `together` are solved for at a time."""
    curvature, method = request.curvature, inversion or request.inversion
    m, p = max(1, right_hand_sides), size.parameters
    at_once, together = max(1, together), max(1, min(together, right_hand_sides))
    product = product_work(curvature, size.hessian_rows, at_once)
    drawing = DRAWING_GRADIENTS * size.hessian_rows if curvature.facts.draws_labels else 0.0
    fit, apart, dense = product.times(method.fit_products(p)), NOTHING, NOTHING
    if curvature.closed_form:  # whatever multiplies with it afterwards takes no pass over the rows
        fit, product = form_work(curvature, size), Work(flops=2.0 * p)
    elif method.building is not None or curvature.builds_matrix:
        fit = built_work(curvature, size)
        if curvature.builds_matrix:  # what multiplies with it afterwards takes no pass, too
            product = Work(flops=2.0 * p * p)
        if method.building is not None:
            apart = Work(flops=FACTORISING * p**3)
        if method.builds_matrix:
            dense = Work(flops=2.0 * p * p)
    fit += Work(gradients=drawing)
    contraction = NOTHING
    if isinstance(request, InfluencesJob):
        meeting = Work(gradients=m * MEETING_GRADIENTS)
        contraction = Work(flops=2.0 * p * m) if size.entries == 1 else meeting
    products = method.products(right_hand_sides, together)
    return Counts(
        fit=fit,
        apart=apart,
        right_hand_side=Work(gradients=1.0) + product.times(products / m) + dense,
        train_row=Work(gradients=1.0) + contraction,
        contraction=contraction,
    )


def positions_of(outputs: Sequence[TensorSpec]) -> int:
    """Of a row, by the shapes of a model's outputs: a sequence passes through the parameters once a position."""
    shape = [each or 1 for each in outputs[0].shape[1:]] if outputs else []
    return max(1, prod(shape) // max(shape)) if len(shape) > 1 else 1
