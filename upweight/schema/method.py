"""The facts of a method that applies (H + λI)⁻¹, as who sizes, plans, names or lists methods asks for them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from upweight.schema.base import Request

Answer = Literal["exact", "iterative", "low rank"]
VECTORS_OF_EACH = 6.0  # held for a right-hand side that is solved for, at most


class InversionMethod(Request):
    """The facts of a method. Those that are not given are the careful ones: they cost time, never a wrong number."""

    label: ClassVar[str]  # for people, as in "by conjugate gradient"
    # Up to rounding; up to a tolerance that it iterates to; or but for what lies outside of some directions.
    answer: ClassVar[Answer]
    suggested: ClassVar[bool] = False  # what an empty form begins with
    builds_matrix: ClassVar[bool] = False  # H itself, (p, p)
    rank_field: ClassVar[str | None] = None  # how many directions of H it keeps
    guess_field: ClassVar[str | None] = None  # a blob with a first guess, a row a right-hand side
    # A fit is named by ALL fields but these, which only its use depends on.
    solve_only: ClassVar[frozenset[str]] = frozenset()
    together: ClassVar[int] = 1024  # right-hand sides of a block, where memory allows

    @property
    def has_fit(self) -> bool:
        """Whether it finds out something about H first, which serves any right-hand side."""
        return False

    @property
    def fit_is_random(self) -> bool:
        """Whether a fit depends on the seed."""
        return True

    @property
    def fit_is_damped(self) -> bool:
        """Whether a fit is of one λ alone."""
        return True

    @property
    def needs_damping(self) -> str | None:
        """What divides by λ, where anything does: then λ must be above 0."""
        return None

    @property
    def building(self) -> InversionMethod | None:
        """What of it builds H: itself, or a method that it takes."""
        return self if self.builds_matrix else None

    def fit_products(self, parameters: int) -> float:
        """About how many vectors H is multiplied with to make the fit."""
        return 0.0

    def products(self, right_hand_sides: int, together: int) -> float:
        """About how many vectors H is multiplied with to solve, so many right-hand sides at a time."""
        return 0.0

    def vectors_held(self, together: int, *, single: bool) -> float:
        """About how many vectors of a number a parameter are held at once, in the job's precision (`single`: float32).

        Of H by products: before the first, two ways to multiply are compared.
        """
        return self.vectors_of_each(single=single) * together

    def least_vectors(self, parameters: int) -> int:
        """How many it holds however little memory there is, and is refused where that is less; 0 where it is not."""
        return 0

    def refines(self, *, single: bool) -> bool:
        """Whether it takes products in float64, too, where the job is in float32."""
        return False

    def vectors_at_work(self, together: int, *, single: bool) -> float:
        """How many of them beside what a pass over the rows takes: after the two ways have been compared."""
        return self.vectors_held(together, single=single)

    def vectors_of_each(self, *, single: bool) -> float:
        """How many of them each right-hand side takes of the memory that decides how many are solved for together."""
        return VECTORS_OF_EACH

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """With what the explorer shows of the method."""
        schema = handler(core_schema)
        facts = {"label": cls.label, "answer": cls.answer, "suggested": cls.suggested}
        handler.resolve_ref_schema(schema)["x-method"] = facts
        return schema


class FittedMethod(InversionMethod):
    """One whose fit is of H alone: another λ takes no pass over the rows."""

    @property
    def has_fit(self) -> bool:
        """What it finds out about H."""
        return True

    @property
    def fit_is_damped(self) -> bool:
        """Of any λ."""
        return False
