"""The curvature that (C + λI)⁻¹ is of: its kind, what of it is kept, and the facts of both, without numerics.

Who validates, plans, names or lists curvatures asks for a fact, never for a kind or a structure by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from upweight.schema.base import Request

Kind = Literal["hessian", "gauss_newton", "fisher", "empirical_fisher"]
Structure = Literal["full", "layers", "kfac", "ekfac", "diagonal", "identity"]

# Of what structures keep: most parameters of a module with an exact block, and most rows of a Kronecker factor.
LARGE_BLOCK = 4096
LARGEST_SIDE = 8192


@dataclass(frozen=True)
class KindFacts:
    """What is true of a kind, whatever its structure."""

    label: str  # for people, as in "products with the Hessian"
    positive: bool  # semi-definite, for every model and loss that it takes
    bends: bool = False  # has the model's own second derivative in it
    draws_labels: bool = False  # from the model's predictions, with the job's seed
    one_column_a_row: bool = False  # a row adds at most 1 to its rank
    # Losses that it makes no sense for: why, and the way out.
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StructureFacts:
    """What is true of a structure."""

    label: str
    kinds: tuple[Kind, ...]  # that it can be of
    # Kinds whose eigenvectors it knows without the full matrix, so that `direct` is a closed form of any size.
    closed_form: tuple[Kind, ...] = ()
    exact_blocks: bool = False  # (s, s) for the s parameters of each module
    factors: bool = False  # Kronecker factors of each layer
    second_pass: bool = False  # over the rows, in the eigenvectors that the first one gives
    # What a fit of it takes, about: so many gradients of each row, for each column that a row adds to C.
    fit_gradients: float = 0.0
    refused: str = ""  # why other kinds have none


_ALL: tuple[Kind, ...] = ("hessian", "gauss_newton", "fisher", "empirical_fisher")
_OF_SQUARES: tuple[Kind, ...] = ("gauss_newton", "fisher", "empirical_fisher")

KINDS: dict[Kind, KindFacts] = {
    "hessian": KindFacts("Hessian", positive=False, bends=True),
    "gauss_newton": KindFacts(
        "Gauss-Newton",
        positive=True,
        refused={
            "program": "what the program computes last may not be convex in what it computes before; take "
            "'empirical_fisher', or register the model with its outputs and a loss by name",
            "nll": "this loss is linear in the log-probabilities, so that its Gauss-Newton matrix is 0; take 'fisher', "
            "or register the model with its logits and cross_entropy",
            "gaussian_nll": "this loss is not convex in mean and variance together, so that its Gauss-Newton matrix "
            "has negative eigenvalues; take 'fisher'",
        },
    ),
    "fisher": KindFacts(
        "Fisher",
        positive=True,
        draws_labels=True,
        one_column_a_row=True,
        refused={
            "program": "the distribution of its labels is not known, so that none can be drawn; take "
            "'empirical_fisher', which has the data's",
            "huber": "it is no likelihood that labels could be drawn from; take 'gauss_newton', or "
            "'empirical_fisher', which has the data's labels",
        },
    ),
    "empirical_fisher": KindFacts("empirical Fisher", positive=True, one_column_a_row=True),
}

_FACTORS = "its factors are second moments of what goes into a layer and of what comes back to it"
STRUCTURES: dict[Structure, StructureFacts] = {
    "full": StructureFacts("full", _ALL),
    "layers": StructureFacts(
        "a block a layer", _ALL, closed_form=_OF_SQUARES, exact_blocks=True, fit_gradients=2.0
    ),
    "kfac": StructureFacts(
        "K-FAC",
        _OF_SQUARES,
        closed_form=_OF_SQUARES,
        factors=True,
        fit_gradients=3.0,
        refused=_FACTORS,
    ),
    "ekfac": StructureFacts(
        "EK-FAC",
        _OF_SQUARES,
        closed_form=_OF_SQUARES,
        factors=True,
        second_pass=True,
        fit_gradients=6.0,
        refused=_FACTORS,
    ),
    "diagonal": StructureFacts("diagonal", _ALL, closed_form=_OF_SQUARES, fit_gradients=2.0),
    "identity": StructureFacts("identity", _ALL, closed_form=_ALL),
}


class Curvature(Request):
    """The matrix C of (C + λI)⁻¹, the mean over all training rows."""

    kind: Kind = Field(
        "hessian",
        description="`hessian`; `gauss_newton`, Jᵀ S J with J the derivative of the model's outputs and S the loss's "
        "Hessian in them; `fisher`, g gᵀ of gradients with labels that are drawn from the model's predictions; "
        "`empirical_fisher`, g gᵀ with the data's labels. All but `hessian` have no negative eigenvalue.",
    )
    structure: Structure = Field(
        "full",
        description="What of it is kept: `full`, the whole; `layers`, an exact block a layer; `kfac` and `ekfac`, a "
        "Kronecker product a layer, with eigenvalues that are products of its factors' or means over the rows; "
        "`diagonal`; `identity`. All but `full` make `direct` a closed form for models of any size, unless they are "
        "of kind `hessian`.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> Curvature:
        kinds = STRUCTURES[self.structure].kinds
        if self.kind not in kinds:
            raise ValueError(
                f"structure {self.structure!r} is one of kind {_either(kinds)}, not of {self.kind!r}: "
                f"{STRUCTURES[self.structure].refused}; choose one of these, or structure 'full'"
            )
        return self

    @property
    def facts(self) -> KindFacts:
        """Of its kind."""
        return KINDS[self.kind]

    @property
    def is_default(self) -> bool:
        """Whether it is what a job without the field has, as all had before there was one."""
        return self == Curvature()

    @property
    def label(self) -> str:
        """For people: "Hessian", "Fisher (EK-FAC)"."""
        whole = self.structure == "full"
        return self.facts.label if whole else f"{self.facts.label} ({self.structure_label})"

    @property
    def draws_labels(self) -> bool:
        """Whether it may depend on a seed: a structured Gauss-Newton matrix does where a row has many outputs."""
        kept = self.structure not in ("full", "identity")
        return self.facts.draws_labels or (kept and self.kind == "gauss_newton")

    @property
    def differentiates_twice(self) -> bool:
        """Whether it takes the model's second derivative; the loss's own, in the outputs, is another matter."""
        return self.facts.bends and self.structure != "identity"

    @property
    def closed_form(self) -> bool:
        """Whether its eigenvectors are known without its full matrix."""
        return self.kind in STRUCTURES[self.structure].closed_form

    @property
    def has_exact_blocks(self) -> bool:
        """Whether it keeps a matrix for the parameters of each module."""
        return STRUCTURES[self.structure].exact_blocks

    @property
    def takes_second_pass(self) -> bool:
        """Whether its eigenvalues are sums over the rows in eigenvectors that a first pass gives."""
        return STRUCTURES[self.structure].second_pass

    @property
    def fit_gradients(self) -> float:
        """What its closed form takes to fit, about, in gradients of each row for each of its columns."""
        return STRUCTURES[self.structure].fit_gradients

    @property
    def builds_matrix(self) -> bool:
        """Whether it is cut out of the full matrix, whatever inverts it."""
        return self.structure != "full" and not self.closed_form

    @property
    def structure_label(self) -> str:
        """For people."""
        return STRUCTURES[self.structure].label

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """With what the explorer shows of kinds and structures."""
        schema = handler(core_schema)
        inner = handler.resolve_ref_schema(schema)
        inner["x-kinds"] = {
            name: {"label": facts.label, "positive": facts.positive}
            for name, facts in KINDS.items()
        }
        inner["x-structures"] = {
            name: {"label": facts.label, "kinds": list(facts.kinds)}
            for name, facts in STRUCTURES.items()
        }
        return schema


def _by_kind(value: Any) -> Any:
    """A bare string stands for the kind."""
    return {"kind": value} if isinstance(value, str) else value


CurvatureField = Annotated[Curvature, BeforeValidator(_by_kind)]


def kinds_in_words() -> str:
    """The kinds as alternatives, "a, b or c"."""
    return _either(KINDS, quote="")


def _either(names: Iterable[str], quote: str = "'") -> str:
    *most, last = [f"{quote}{name}{quote}" for name in names]
    return f"{', '.join(most)} or {last}" if most else last
