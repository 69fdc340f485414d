"""What is true of each kind of job stands on its class, and is of fields that it has."""

from __future__ import annotations

import pytest

from upweight.schema.job import FactorsJob, IhvpJob, InfluencesJob, SelfInfluencesJob

Kind = type[InfluencesJob | FactorsJob | IhvpJob | SelfInfluencesJob]
SOLVED_WITH = {"inversion", "hessian_regularization", "seed"}


@pytest.mark.parametrize(
    ("kind", "right_hand_sides"),
    [
        (InfluencesJob, {"test", "measurement"}),
        (FactorsJob, {"test", "measurement"}),
        (IhvpJob, {"rhs"}),
        (SelfInfluencesJob, {"train"}),
    ],
)
def test_solutions_are_named_by_the_method_and_the_right_hand_sides(
    kind: Kind, right_hand_sides: set[str]
) -> None:
    """So those of `factors` serve `influences` of the same test rows."""
    named_by = set(kind.model_fields) - kind.beside_solutions
    assert named_by == SOLVED_WITH | right_hand_sides
    assert kind.beside_solutions < set(kind.model_fields)
