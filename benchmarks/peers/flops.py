"""The least work that a case takes on a chain of linear layers, in floating-point operations.

A Hessian product costs 2n (2 P₁ + 6 P) with P₁ the first layer's weights and P the others': the
primal pass is kept, and nothing goes back through the first layer to the input.
"""

from __future__ import annotations

from torch import nn

from benchmarks.peers.cases import Case, Contestant
from benchmarks.peers.models import BUILDERS


def product_flops(model: nn.Sequential, n: int) -> float:
    """Of a Hessian product with one vector over n rows."""
    weights = [each.weight.numel() for each in model if isinstance(each, nn.Linear)]
    return 2.0 * n * (2 * weights[0] + 6 * sum(weights[1:]))


def least_flops(case: Case, contestant: Contestant, products: int | None) -> float | None:
    """Of the products that were made, the factorisation and solves of direct, the final product.

    None where the products are not known, none were made (H built at once), or the model is no such
    chain.
    """
    model = BUILDERS[case.model]()
    if not products or not isinstance(model, nn.Sequential):
        return None
    size = sum(each.numel() for each in model.parameters())
    product = product_flops(model, case.n)
    meeting = case.m * product if case.kind == "perturbation" else 2 * case.m * case.n * size
    total = float(products * product + meeting)
    if case.method_of(contestant) == "direct":
        total += size**3 / 3 + 2 * case.m * size**2
    return total
