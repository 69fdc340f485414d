"""The one table of inversion methods, by name, with their traits: tests of all methods take their rows from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from upweight.schema.inversion import METHODS as SCHEMAS
from upweight.schema.method import InversionMethod

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """Parameters are the contract's."""

    name: str
    full: Callable[[int, bool], Parameters]  # exact for so many parameters, in float64 or not
    quick: Parameters  # of little cost, and spread over workers; no answer to be relied on
    # Of k right-hand sides, p parameters and some rank r: the arrays of the info, and what its summary has.
    arrays: dict[str, tuple[str, ...]]
    summary: set[str] = field(default_factory=set)
    other: tuple[Parameters, ...] = ()  # further ways of its own to be tried where it is spread

    @property
    def schema(self) -> type[InversionMethod]:
        """Its class in the contract, which has its facts."""
        return SCHEMAS[self.name]

    @property
    def rowwise(self) -> set[str]:
        """The arrays that have a row for each right-hand side."""
        return {name for name, axes in self.arrays.items() if axes[:1] == ("k",)} | {
            "residual_norms"
        }

    def inversion(self, parameters: Parameters) -> Parameters:
        """As a request has it."""
        return {"method": self.name, **parameters}


METHODS = {
    row.name: row
    for row in (
        Row(
            "direct",
            lambda size, double: {},
            {},
            {"hessian": ("p", "p"), "eigenvalues": ("p",)},
            {"smallest_eigenvalue", "largest_eigenvalue"},
        ),
        Row(
            "cg",
            lambda size, double: {"rtol": 1e-10 if double else 1e-6, "atol": 0.0},
            {"rtol": 1e-4},
            {"iterations": ("k",), "converged": ("k",)},
            {"iterations", "passes"},
            (
                {"rtol": 1e-4, "preconditioner": {"name": "nystroem", "rank": 8}},
                {"rtol": 1e-4, "preconditioner": {"method": "arnoldi", "rank_estimate": 4}},
            ),
        ),
        Row(
            "lissa",
            lambda size, double: {
                "scale": "auto",
                "maxiter": 10_000,
                "rtol": 1e-9 if double else 1e-6,
            },
            {"maxiter": 20, "batch_size": 50},
            {"converged": ("k",), "course_percent": ("k", "t")},
            {"maximum_change_percent", "mean_change_percent", "iterations", "scale"},
        ),
        Row(
            "arnoldi",
            lambda size, double: {"rank_estimate": size, "tol": 1e-10 if double else 1e-6},
            {"rank_estimate": 6, "complement": True},
            {"eigenvalues": ("r",), "eigenvectors": ("p", "r"), "residuals": ("r",)},
            {"converged"},
        ),
        Row(
            "nystroem",
            lambda size, double: {"rank": size},
            {"rank": 12},
            {"eigenvalues": ("r",), "eigenvectors": ("p", "r")},
            {"rank"},
        ),
    )
}
