"""Arguments that change what an allowed operator is: training, randomness, gradients of no loss."""

from collections.abc import Mapping
from typing import Any

from torch._ops import OpOverload

from workers.engine.model.training import training_behaviour
from workers.programs.errors import OperatorRefused, RandomOperator, TrainMode

Arguments = Mapping[str, Any]


def check_arguments(op: OpOverload, arguments: Arguments) -> None:
    """Refuses a call by its arguments; what is absent counts as the operator's default."""
    name = op._schema.name.removeprefix("aten::")
    match training_behaviour(op, arguments):
        case "chance":
            raise RandomOperator(
                f"{name} draws random numbers: the model was exported in training mode. "
                "Call model.eval() before torch.export.export"
            )
        case "statistics":
            raise TrainMode(
                f"{name} normalises by the statistics of the batch, so an example's output depends on "
                "the others: the model was exported in training mode. "
                "Call model.eval() before torch.export.export"
            )
    if name in _TABLES:
        _refuse_gradient_of_no_loss(name, arguments)
    if name in ("view", "view_copy"):
        _refuse_another_reading(name, arguments)


_TABLES = frozenset({"embedding", "embedding_bag", "_embedding_bag"})


def _refuse_gradient_of_no_loss(name: str, arguments: Arguments) -> None:
    if arguments.get("sparse", False) is not False:
        raise OperatorRefused(
            f"{name} has sparse gradients, which have no second derivative: build it with "
            "sparse=False (set it on the trained module, its output stays the same)"
        )
    if arguments.get("scale_grad_by_freq", False) is not False:
        raise OperatorRefused(
            f"{name} divides its gradient by how often a row is looked up in the batch "
            "(scale_grad_by_freq=True), which is the gradient of no loss: set "
            "scale_grad_by_freq=False on the trained module, its output stays the same"
        )


def _refuse_another_reading(name: str, arguments: Arguments) -> None:
    if "dtype" in arguments:
        raise OperatorRefused(
            f"{name} reads the bytes of a tensor as {arguments['dtype']}, which has a meaning in one precision alone: "
            "compute the values instead, or convert them with .to(...)"
        )
