"""What the jobs of a chaotic run compute: methods, curvatures, structures and forms of λ, in one task and in blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from upweight import Client

MODEL, ROWS = "chaos-net", "chaos-rows"
COUNT = 300  # rows
# Each step is over other rows, so that every one counts.
_LISSA = {"method": "lissa", "scale": 1e7, "rtol": 1e-15, "batch_size": 250}
_DIRECT = {"method": "direct"}
_FEW = {"dataset": ROWS, "rows": "0:4"}
_IN_BLOCKS = {
    "spread": True,
    "test_rows": 2,
    "train_rows": 100,
    "rhs_rows": 2,
    "hessian_rows": 130,
}
WHOLE = {"matrix": True, "top": 5, "mean": True, "factors": True}
_COMMON: dict[str, Any] = {
    "kind": "influences",
    "model": MODEL,
    "train": {"dataset": ROWS},
    "hessian_regularization": 1.0,
    "precision": "float64",
    "reuse": False,
}
LONG = frozenset({"long", "longer"})  # more steps of what "short" does
KINDS: dict[str, dict[str, Any]] = {
    "direct": {"inversion": _DIRECT, "keep": WHOLE},
    "cg": {"inversion": {"method": "cg"}, "keep": WHOLE},
    "arnoldi": {"inversion": {"method": "arnoldi", "rank_estimate": 20}, "keep": {"top": 5}},
    "short": {"inversion": {**_LISSA, "maxiter": 300}, "keep": WHOLE},
    "long": {"inversion": {**_LISSA, "maxiter": 1500}, "keep": WHOLE},
    "longer": {"inversion": {**_LISSA, "maxiter": 3000}, "test": {"dataset": ROWS, "rows": "4:8"}},
    # So many numbers that some of these meet a namespace's quota.
    "wide": {"inversion": _DIRECT, "test": {"dataset": ROWS}},
    "Gauss-Newton, two λ, in blocks": {
        "curvature": "gauss_newton",
        "inversion": {"method": "cg"},
        "hessian_regularization": [0.1, 1.0],
        "keep": WHOLE,
        "blocks": _IN_BLOCKS,
    },
    "Fisher, λ worked out, in blocks": {
        "curvature": "fisher",
        "inversion": _DIRECT,
        "hessian_regularization": "auto",
        "blocks": _IN_BLOCKS,
    },
    "a Fisher block a layer, relative λ": {
        "curvature": {"kind": "fisher", "structure": "layers"},
        "inversion": _DIRECT,
        "hessian_regularization": {"relative": 0.1},
    },
    "Hessian a layer, in blocks": {
        "curvature": {"structure": "layers"},
        "inversion": _DIRECT,
        "blocks": _IN_BLOCKS,
    },
    "K-FAC, λ worked out": {
        "curvature": {"kind": "gauss_newton", "structure": "kfac"},
        "inversion": _DIRECT,
        "hessian_regularization": "auto",
        "keep": WHOLE,
    },
    "EK-FAC, three λ, in blocks": {
        "curvature": {"kind": "empirical_fisher", "structure": "ekfac"},
        "inversion": _DIRECT,
        "hessian_regularization": [{"relative": 0.1}, 0.5, {"relative": 2.0}],
        "keep": WHOLE,
        "blocks": _IN_BLOCKS,
    },
    "factors by a diagonal": {
        "kind": "factors",
        "curvature": {"kind": "empirical_fisher", "structure": "diagonal"},
        "inversion": _DIRECT,
    },
    "self-influences by the identity, in blocks": {
        "kind": "self_influences",
        "curvature": {"structure": "identity"},
        "inversion": _DIRECT,
        "hessian_regularization": [0.5, 1.0],
        "blocks": {"spread": True, "train_rows": 60},
    },
    "an index by EK-FAC, in blocks": {
        "kind": "index",
        "curvature": {"kind": "fisher", "structure": "ekfac"},
        "dimension": 12,
        "blocks": {"spread": True, "train_rows": 60},
    },
    "gradients": {"kind": "gradients"},
}
# What jobs of a kind do not have of what the others have in common.
_ABSENT = {
    "self_influences": ("test",),
    "index": ("test",),
    "gradients": ("test", "hessian_regularization", "reuse"),
}


def request(kind: str) -> dict[str, Any]:
    """The body of a job of a kind."""
    body = {**_COMMON, "test": _FEW, **KINDS[kind]}
    for name in _ABSENT.get(body["kind"], ()):
        del body[name]
    return body


def register(client: Client) -> None:
    """The model and the rows, the same for every tenant."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x = torch.randn(COUNT, 8, dtype=torch.float64)
    client.models.register(MODEL, network, example=x[:2], loss="cross_entropy")
    client.datasets.register(ROWS, x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))
