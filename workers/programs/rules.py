"""Arguments that change what an allowed operator is: training, randomness, gradients of no loss."""

from collections.abc import Callable, Mapping
from typing import Any

from torch._ops import OpOverload

from workers.programs.errors import OperatorRefused, RandomOperator, TrainMode

Arguments = Mapping[str, Any]


def check_arguments(op: OpOverload, arguments: Arguments) -> None:
    """Refuses a call by its arguments; what is absent counts as the operator's default."""
    name = op._schema.name.removeprefix("aten::")
    if name in _RULES:
        given = {
            argument.name: argument.default_value
            for argument in op._schema.arguments
            if argument.has_default_value()
        }
        _RULES[name](name, {**given, **arguments})


def _no_dropout(name: str, arguments: Arguments) -> None:
    probability = arguments.get("dropout_p", arguments.get("dropout", arguments.get("p", 0.0)))
    if arguments.get("train", True) is not False and probability != 0:
        raise RandomOperator(
            f"{name} draws random numbers (probability {probability}): the model was exported in "
            "training mode. Call model.eval() before torch.export.export"
        )


def _no_statistics(name: str, arguments: Arguments) -> None:
    training = arguments.get("training", arguments.get("use_input_stats", False))
    # Without running statistics these normalise within an example, or are refused when they are
    # run: the check compares rows computed together with rows computed alone.
    if name in _WITHIN_EXAMPLES and arguments.get("running_mean") is None:
        return
    if training is not False:
        raise TrainMode(
            f"{name} normalises by the statistics of the batch, so an example's output depends on "
            "the others: the model was exported in training mode. "
            "Call model.eval() before torch.export.export"
        )


def _no_noise(name: str, arguments: Arguments) -> None:
    if arguments.get("training", False) is not False:
        raise RandomOperator(f"{name} is random in training mode: call model.eval() first")


def _gradient_of_a_loss(name: str, arguments: Arguments) -> None:
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


_WITHIN_EXAMPLES = frozenset({"instance_norm", "_native_batch_norm_legit"})

_RULES: dict[str, Callable[[str, Arguments], None]] = {
    "alpha_dropout": _no_dropout,
    "dropout": _no_dropout,
    "feature_alpha_dropout": _no_dropout,
    "feature_dropout": _no_dropout,
    "native_dropout": _no_dropout,
    "gru": _no_dropout,
    "lstm": _no_dropout,
    "rnn_relu": _no_dropout,
    "rnn_tanh": _no_dropout,
    "scaled_dot_product_attention": _no_dropout,
    "batch_norm": _no_statistics,
    "instance_norm": _no_statistics,
    "native_batch_norm": _no_statistics,
    "_native_batch_norm_legit": _no_statistics,
    "embedding": _gradient_of_a_loss,
    "embedding_bag": _gradient_of_a_loss,
    "_embedding_bag": _gradient_of_a_loss,
    "rrelu": _no_noise,
}
