"""What an index's numbers are coordinates of: the ways to make few numbers of a gradient, a class each, with its facts.

A union discriminated by `method`. Who sizes, plans or names them asks for a fact, never for one by name.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from upweight.schema.base import Request


class ProjectionMethod(Request):
    """The facts of one, as they are unless it says otherwise."""

    # Whether it is drawn, so that rows need no whole gradient, and whitened by matrices (dimension, dimension).
    is_random: ClassVar[bool] = False
    most: ClassVar[int | None] = None  # numbers of a layer

    method: str


class Eigenvectors(ProjectionMethod):
    """Along eigenvectors of the curvature: the coordinates that are largest over a sample of the rows, in whichever
    layer. More of the strongest rows are found than with as many others; each row's whole gradient is formed."""

    method: Literal["eigenvectors"] = "eigenvectors"


class RandomProjection(ProjectionMethod):
    """A random projection layer by layer (LoGra, Choe et al. 2024): of what goes into a layer to k_in numbers, of what
    comes back to it to k_out, k_in · k_out at most `dimension`. No row's whole gradient is formed, so that an index is
    built faster. The numbers are whitened by the curvature in the projected space."""

    is_random = True
    most = 4096

    method: Literal["random"] = "random"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="Of the projection; null means the job's seed."
    )


def _by_name(value: Any) -> Any:
    """A bare string stands for the method."""
    return {"method": value} if isinstance(value, str) else value


Projection = Annotated[
    Annotated[Eigenvectors | RandomProjection, Field(discriminator="method")],
    BeforeValidator(_by_name),
]
