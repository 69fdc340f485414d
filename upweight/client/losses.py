"""Losses as callers have them: a name, a dict, or a module of torch.nn, which is read without importing torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, get_args

from pydantic import BaseModel

from upweight.errors import InvalidRequest
from upweight.schema.loss import Loss as LossFields

if TYPE_CHECKING:
    from torch import nn

    from upweight.export.outputs import Output

LossName = Literal[
    "cross_entropy",
    "bce_with_logits",
    "mse",
    "huber",
    "nll",
    "poisson_nll",
    "gaussian_nll",
    "program",
]
# What `loss=` takes. A function is one of torch.nn.functional, with its defaults.
Loss: TypeAlias = "LossName | Mapping[str, Any] | BaseModel | nn.Module | Callable[..., Any]"

log = logging.getLogger("upweight")
NAMES = [each.model_fields["name"].default for each in get_args(get_args(LossFields)[0])]
_HOME = "torch.nn.modules.loss"
_FUNCTIONAL = "torch.nn.functional"
_IGNORED = -100  # torch's default, and what a loss without `ignore_index` passes over
_POISSON_EPS, _GAUSSIAN_EPS = 1e-8, 1e-6  # torch's defaults, and what a worker adds
_OWN = "let the model compute its loss: forward(x, y) gives one number a row, and loss='program'"
_FUNCTIONS = {
    "cross_entropy": "CrossEntropyLoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "mse_loss": "MSELoss",
    "huber_loss": "HuberLoss",
    "smooth_l1_loss": "SmoothL1Loss",
    "nll_loss": "NLLLoss",
    "poisson_nll_loss": "PoissonNLLLoss",
    "gaussian_nll_loss": "GaussianNLLLoss",
    "l1_loss": "L1Loss",
}


def written(loss: Any, output: Output = None) -> Any:
    """A loss as the service takes it; `output`: what it takes of a model with several tensors.

    A module of torch.nn is written with its options. Raises InvalidRequest for what has no fields: another module or
    function, and options that a field can't express, each by its name with what to do instead.
    """
    if loss is None or isinstance(loss, str | Mapping | BaseModel):
        return loss
    if isinstance(loss, type):
        _refuse(f"{loss.__name__} is a class; give an instance, loss={loss.__name__}()")
    function = getattr(loss, "__name__", None)
    if function in _FUNCTIONS and getattr(loss, "__module__", None) == _FUNCTIONAL:
        return _of_defaults(_FUNCTIONS[function], output)
    kind = next((each for each in type(loss).__mro__ if each.__module__ == _HOME), None)
    if kind is None:
        _refuse_foreign(loss, function or type(loss).__name__)
    if type(loss).forward is not kind.forward or loss._forward_hooks or loss._forward_pre_hooks:  # type: ignore[attr-defined]
        _refuse(f"{type(loss).__name__} computes something else than {kind.__name__}; {_OWN}")
    return _of_module(kind.__name__, loss, output)


def _of_defaults(kind: str, output: Output) -> Any:
    """What a function of torch.nn.functional computes where it is called without options."""
    import torch

    return _of_module(kind, getattr(torch.nn, kind)(), output)


def _of_module(kind: str, loss: Any, output: Output) -> dict[str, Any]:
    fields = _FIELDS.get(kind)
    if fields is None:
        _refuse(f"{kind} {_WITHOUT_FIELDS.get(kind, f'is not among {_listed()}; {_OWN}')}")
    if loss.reduction not in ("mean", "sum"):
        _refuse(
            f"{kind}(reduction={loss.reduction!r}) does not say how a row's loss is made of its outputs; give "
            f"reduction='mean' or 'sum' as it was trained. Otherwise {_OWN}"
        )
    found = fields(loss, output)
    if loss.reduction == "sum":
        found["positions" if kind in _OF_CLASSES else "reduction"] = "sum"
        log.warning(
            "%s(reduction='sum'): a row's loss is the sum over its outputs, and the Hessian that of the MEAN over the "
            "rows. A training on the sum over n rows with weight decay w has λ = w / n here",
            kind,
        )
    return found


def _cross_entropy(loss: Any, output: Output) -> dict[str, Any]:
    return {**_classes("cross_entropy", loss), **_unless("label_smoothing", loss, 0.0)}


def _nll(loss: Any, output: Output) -> dict[str, Any]:
    return _classes("nll", loss)


def _classes(name: str, loss: Any) -> dict[str, Any]:
    weights = {} if loss.weight is None else {"class_weights": loss.weight.tolist()}
    return {"name": name, **weights, **_unless("ignore_index", loss, _IGNORED)}


def _bce_with_logits(loss: Any, output: Output) -> dict[str, Any]:
    weights = {} if loss.weight is None else {"output_weights": _of_outputs(loss.weight)}
    if loss.pos_weight is None:
        return {"name": "bce_with_logits", **weights}
    if loss.pos_weight.ndim > 1:
        _refuse(
            f"BCEWithLogitsLoss(pos_weight=…) of shape {list(loss.pos_weight.shape)}: give one number, or one for each "
            f"output, or {_OWN}"
        )
    return {"name": "bce_with_logits", **weights, "pos_weight": loss.pos_weight.tolist()}


def _of_outputs(weight: Any) -> list[float]:
    """A number for each output; torch takes one for each row of a batch as well, which is another thing."""
    if weight.ndim != 1:
        _refuse(
            f"BCEWithLogitsLoss(weight=…) of shape {list(weight.shape)}: give one number for each output; numbers of "
            "rows are a target column of the dataset, named by loss={'name': 'bce_with_logits', 'row_weights': …}"
        )
    return [float(each) for each in weight]


def _mse(loss: Any, output: Output) -> dict[str, Any]:
    return {"name": "mse"}


def _huber(loss: Any, output: Output) -> dict[str, Any]:
    return {"name": "huber", **_unless("delta", loss, 1.0)}


def _smooth_l1(loss: Any, output: Output) -> dict[str, Any]:
    if loss.beta != 1.0:
        _refuse(
            f"SmoothL1Loss(beta={loss.beta:g}) is HuberLoss(delta={loss.beta:g}) divided by {loss.beta:g}; give that "
            f"loss, and λ times {loss.beta:g}"
            if loss.beta
            else f"SmoothL1Loss(beta=0) is L1Loss, which {_WITHOUT_FIELDS['L1Loss']}"
        )
    return {"name": "huber"}


def _poisson(loss: Any, output: Output) -> dict[str, Any]:
    if not loss.log_input and loss.eps != _POISSON_EPS:
        _refuse(
            f"PoissonNLLLoss(eps={loss.eps:g}) has no field here: what is added to the rate is {_POISSON_EPS:g}; "
            f"leave it out, or {_OWN}"
        )
    return {
        "name": "poisson_nll",
        **_unless("log_input", loss, True),
        **_unless("full", loss, False),
    }


def _gaussian(loss: Any, output: Output) -> dict[str, Any]:
    if loss.eps != _GAUSSIAN_EPS:
        _refuse(
            f"GaussianNLLLoss(eps={loss.eps:g}) has no field here: a variance is floored at {_GAUSSIAN_EPS:g}; leave "
            f"it out, or {_OWN}"
        )
    if not isinstance(output, tuple | list):
        _refuse(
            "GaussianNLLLoss takes a mean and a variance: say which of the model's outputs they are, such as "
            "output=[0, 1]; for one tensor with mean and log-variance side by side give loss='gaussian_nll'"
        )
    return {"name": "gaussian_nll", **_unless("full", loss, False)}


_OF_CLASSES = ("CrossEntropyLoss", "NLLLoss")
_FIELDS: dict[str, Callable[[Any, Output], dict[str, Any]]] = {
    "CrossEntropyLoss": _cross_entropy,
    "BCEWithLogitsLoss": _bce_with_logits,
    "MSELoss": _mse,
    "HuberLoss": _huber,
    "SmoothL1Loss": _smooth_l1,
    "NLLLoss": _nll,
    "PoissonNLLLoss": _poisson,
    "GaussianNLLLoss": _gaussian,
}
_WITHOUT_FIELDS = {
    "L1Loss": "is not twice differentiable, so it has no Hessian; give HuberLoss with a small delta",
    "BCELoss": "takes probabilities; leave the sigmoid out of the model and give BCEWithLogitsLoss, or "
    + _OWN,
}


def _unless(option: str, loss: Any, default: Any) -> dict[str, Any]:
    value = getattr(loss, option)
    return {} if value == default else {option: value}


def _refuse_foreign(loss: Any, called: str) -> NoReturn:
    plain = called.lower().replace("_", "").removesuffix("loss")
    name = next((each for each in NAMES if each.replace("_", "") == plain), None)
    meant = f"loss={name!r}" if name else f"a module of torch.nn, or a name: {_listed()}"
    _refuse(f"{called} is no loss of torch.nn; give {meant}, or {_OWN}")


def _listed() -> str:
    return ", ".join(NAMES)


def _refuse(words: str) -> NoReturn:
    raise InvalidRequest.field("/loss", f"loss: {words}", None)
