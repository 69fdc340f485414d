"""The loss of one example, for a batch of them: (B, ...) outputs and targets to (B,) losses."""

from __future__ import annotations

from typing import Any

from workers.engine.errors import BadParameter
from workers.engine.model.losses.classification import (
    BinaryCrossEntropy,
    CrossEntropy,
    NegativeLogLikelihood,
)
from workers.engine.model.losses.per_row import Loss, ProgramLoss
from workers.engine.model.losses.regression import Gaussian, Huber, MeanSquaredError, Poisson

__all__ = ["Loss", "ProgramLoss", "make_loss"]


def make_loss(name: str, **parameters: Any) -> Loss:
    """The loss of that name. Raises BadParameter for unknown names, parameters and values."""
    if name in ("l1", "l1_loss"):
        raise BadParameter(
            "loss", name, "its second derivative is zero or undefined; huber is its smooth relative"
        )
    if name not in LOSSES:
        raise BadParameter("loss", name, f"known losses are {', '.join(sorted(LOSSES))}")
    if isinstance(parameters.get("weight"), list):
        parameters["weight"] = tuple(parameters["weight"])
    if isinstance(parameters.get("output_weights"), list):
        parameters["output_weights"] = tuple(parameters["output_weights"])
    if isinstance(parameters.get("pos_weight"), list):
        parameters["pos_weight"] = tuple(parameters["pos_weight"])
    try:
        return LOSSES[name](**parameters)
    except TypeError as error:
        known = ", ".join(LOSSES[name].__dataclass_fields__) or "none"
        raise BadParameter(f"loss {name}", parameters, f"its parameters are: {known}") from error


LOSSES: dict[str, Any] = {
    "bce_with_logits": BinaryCrossEntropy,
    "cross_entropy": CrossEntropy,
    "gaussian_nll": Gaussian,
    "huber": Huber,
    "mse": MeanSquaredError,
    "nll": NegativeLogLikelihood,
    "poisson_nll": Poisson,
    "program": ProgramLoss,
}
