"""Jobs that run as they stand on what the demo has registered."""

from typing import Any

_ON_THE_DIGITS = {
    "kind": "influences",
    "model": "digits-mlp",
    "train": {"dataset": "digits-train"},
    "test": {"dataset": "digits-test", "rows": "0:20"},
    "hessian_regularization": 0.01,
}

EXAMPLES: Any = {
    "cg": {
        "summary": "Influences by conjugate gradient",
        "value": {
            **_ON_THE_DIGITS,
            "inversion": {"method": "cg", "rtol": 1e-5, "maxiter": 200},
            "keep": {"matrix": True, "top": 50, "mean": True},
        },
    },
    "direct": {
        "summary": "Influences by the full Hessian",
        "value": {**_ON_THE_DIGITS, "inversion": {"method": "direct"}},
    },
    "only the strongest": {
        "summary": "Without storing the matrix",
        "value": {
            **_ON_THE_DIGITS,
            "inversion": {"method": "cg"},
            "keep": {"matrix": False, "top": 20, "mean": True},
            "labels": {"purpose": "label errors"},
        },
    },
}
