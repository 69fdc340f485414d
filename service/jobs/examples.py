"""Jobs that run as they stand on what the demo has registered."""

from typing import Any

_ON_THE_DIGITS: dict[str, Any] = {
    "model": "digits-mlp",
    "train": {"dataset": "digits-train"},
    "hessian_regularization": 0.05,
}
_INFLUENCES: dict[str, Any] = {
    "kind": "influences",
    **_ON_THE_DIGITS,
    "test": {"dataset": "digits-test", "rows": "0:20"},
}

EXAMPLES: Any = {
    "cg": {
        "summary": "Influences by conjugate gradient, everything kept",
        "value": {
            **_INFLUENCES,
            "inversion": {"method": "cg", "rtol": 1e-5, "maxiter": 200},
            "keep": {"matrix": True, "top": 50, "mean": True, "factors": True},
        },
    },
    "direct": {
        "summary": "Influences by the full Hessian",
        "value": {**_INFLUENCES, "inversion": {"method": "direct"}},
    },
    "lissa": {
        "summary": "Influences by LiSSA",
        "value": {
            **_INFLUENCES,
            "inversion": {"method": "lissa", "scale": "auto", "rtol": 1e-2, "maxiter": 2000},
        },
    },
    "arnoldi": {
        "summary": "Influences by the strongest eigenvectors",
        "value": {**_INFLUENCES, "inversion": {"method": "arnoldi", "rank_estimate": 50}},
    },
    "nystroem": {
        "summary": "Influences by a random sketch of the Hessian, in one pass",
        "value": {**_INFLUENCES, "inversion": {"method": "nystroem", "rank": 200}},
    },
    "gauss_newton": {
        "summary": "By the Gauss-Newton matrix, which has no negative eigenvalue",
        "value": {
            **_INFLUENCES,
            "curvature": {"kind": "gauss_newton"},
            "inversion": {"method": "cg", "rtol": 1e-5},
        },
    },
    "perturbation": {
        "summary": "The influence of each pixel",
        "value": {
            **_INFLUENCES,
            "train": {"dataset": "digits-train", "rows": "0:100"},
            "influence_type": "perturbation",
            "inversion": {"method": "cg", "rtol": 1e-5},
        },
    },
    "only the strongest": {
        "summary": "Without storing the matrix",
        "value": {
            **_INFLUENCES,
            "inversion": {"method": "cg", "rtol": 1e-5},
            "keep": {"matrix": False, "top": 20, "mean": True},
            "labels": {"purpose": "label errors"},
        },
    },
    "factors": {
        "summary": "Factors alone, for influences later",
        "value": {
            "kind": "factors",
            **_ON_THE_DIGITS,
            "test": {"dataset": "digits-test", "rows": "0:20"},
            "inversion": {"method": "cg", "rtol": 1e-5},
        },
    },
    "gradients": {
        "summary": "The gradient of each row's loss",
        "value": {
            "kind": "gradients",
            "model": "digits-mlp",
            "train": {"dataset": "digits-test", "rows": "0:20"},
        },
    },
    "index": {
        "summary": "An index, to be asked about rows that come later",
        "value": {"kind": "index", **_ON_THE_DIGITS, "dimension": 256, "name": "why"},
    },
    "self-influences": {
        "summary": "The influence of each training row on itself",
        "value": {
            "kind": "self_influences",
            **_ON_THE_DIGITS,
            "inversion": {"method": "direct"},
        },
    },
}
