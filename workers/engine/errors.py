"""What can go wrong in the engine, each kind with a stable `code` and a way out in its words.

EngineError
├── BadParameter       a field of a method or of a call has a value it cannot have
├── NoSuchParameter    a glob selects no parameter, or a name no module
├── NothingTrains      no parameter of the model requires gradients, and none is selected
├── ShapeMismatch      tensors that meet do not fit
├── UnsupportedOperator  the model has an operator without the derivative needed
├── MixedPrecision     tensors of several floating-point types meet, and do not follow one
├── WrongDerivative    autograd's second derivative of the model is not that of its gradient
├── GradientOfNoLoss   an embedding changes its gradient, or its weights in forward
├── ComplexParameter   a selected parameter is complex
├── TrainingMode       the model would behave as in training (dropout, batch statistics)
├── RowsMixed          what the model gives for a row depends on the other rows of its batch
├── NotFinite          NaN or Inf in weights, data, loss or result
├── SingularHessian    H + λI has no Cholesky factor
├── Diverged           an iteration grows without bound
├── TrainingDiverged   the loss of a training is not a number any more
└── OutOfMemory        even the smallest block does not fit

Cancelling is no error of the engine: whatever the caller's progress callback raises passes through.
"""

from __future__ import annotations

from collections.abc import Sequence


class EngineError(Exception):
    """Any refusal or failure of the engine."""

    code = "engine_error"


class BadParameter(EngineError):
    """A value that a field cannot have; the message says what it can."""

    code = "bad_parameter"

    def __init__(self, field: str, value: object, way_out: str) -> None:
        self.field = field
        self.value = value
        self.way_out = way_out
        super().__init__(f"{field} = {value!r}: {way_out}")


class NoSuchParameter(EngineError):
    """A pattern that matches nothing of the model."""

    code = "no_such_parameter"

    def __init__(self, glob: str, available: Sequence[str], kind: str = "parameter") -> None:
        self.glob = glob
        self.available = tuple(available)
        shown = ", ".join(self.available[:20]) + (", …" if len(self.available) > 20 else "")
        super().__init__(f"no {kind} matches {glob!r}; the model has: {shown or 'none by name'}")


class NothingTrains(EngineError):
    """Without globs θ is what requires gradients, and that is nothing."""

    code = "nothing_trains"

    def __init__(self, available: Sequence[str]) -> None:
        self.available = tuple(available)
        shown = ", ".join(self.available[:20]) + (", …" if len(self.available) > 20 else "")
        super().__init__(
            "no parameter of the model requires gradients, and influence is taken over those that do unless "
            "'parameters' says otherwise. Select some by globs, such as ['*'] for all, or call requires_grad_() on "
            f"those that were trained; the model has: {shown or 'no parameter at all'}"
        )


class ShapeMismatch(EngineError):
    """Tensors that meet do not fit; nothing is broadcast silently."""

    code = "shape_mismatch"

    def __init__(
        self, what: str, expected: Sequence[int | str], found: Sequence[int], way_out: str = ""
    ) -> None:
        self.what = what
        self.expected = tuple(expected)
        self.found = tuple(found)
        ending = f"; {way_out}" if way_out else ""
        super().__init__(f"{what}: expected shape {self.expected}, found {self.found}{ending}")


class UnsupportedOperator(EngineError):
    """An operator of the model cannot be differentiated as often as is needed."""

    code = "unsupported_operator"

    def __init__(self, operator: str, reason: str) -> None:
        self.operator = operator
        self.reason = reason
        super().__init__(f"operator {operator}: {reason}")


class MixedPrecision(EngineError):
    """A part of the model does not follow the precision that it is computed in."""

    code = "mixed_precision"

    def __init__(self, where: str | None, dtype: object, reason: str) -> None:
        self.where = where
        wanted = str(dtype).removeprefix("torch.") if dtype is not None else "one precision"
        super().__init__(
            f"{where or 'a part of the model'} can't be computed in {wanted}: {reason}; give the "
            "model's parameters, buffers and inputs one floating-point type (model.float() or "
            "model.double()), and take casts such as .to(torch.float16) out of that part"
        )


class WrongDerivative(EngineError):
    """A product with H by autograd is not the change of the gradient."""

    code = "wrong_derivative"

    def __init__(self, module: str | None, relative_error: float) -> None:
        self.module = module
        self.relative_error = relative_error
        place = f"in the module {module}" if module else "somewhere in the model"
        super().__init__(
            f"torch's second derivative is wrong {place}: a random product with the Hessian is "
            f"{relative_error:.2g} (relative) off the difference of gradients, so influences would be wrong. "
            "Register the live module instead (client.models.register(name, module, ...) exports it, and "
            "operators that torch has wrong, such as weight_norm, are then written out), or write that part in "
            "elementary operations"
        )


class GradientOfNoLoss(EngineError):
    """An option of an embedding by which its gradient is the gradient of nothing."""

    code = "gradient_of_no_loss"

    def __init__(self, module: str, option: str, wanted: object) -> None:
        self.module = module
        self.value = option
        super().__init__(
            f"the module {module} has {option} set, with which its gradient is not that of the loss; set "
            f"{option}={wanted} on the trained module"
        )


class ComplexParameter(EngineError):
    """Influence is taken over real parameters."""

    code = "complex_parameter"

    def __init__(self, name: str, dtype: object) -> None:
        self.value = name
        kind = str(dtype).removeprefix("torch.")
        super().__init__(
            f"the parameter {name} is {kind}, and influence is over real parameters: keep its real and imaginary "
            f"parts as one real parameter, nn.Parameter(torch.view_as_real({name.rpartition('.')[2]}.detach())), and "
            "write torch.view_as_complex(...) of it in forward; or hold it fixed (requires_grad_(False), or globs "
            "that leave it out)"
        )


class TrainingMode(EngineError):
    """The model depends on chance or on its batch, so that no example has a loss of its own."""

    code = "training_mode"

    def __init__(self, module: str) -> None:
        self.module = module
        super().__init__(
            f"{module} is in training mode, where a row's loss depends on chance or on the other "
            "rows; call model.eval() before exporting or passing it"
        )


class RowsMixed(EngineError):
    """A row's loss, output or gradient depends on the other rows; says in which node of the graph they meet."""

    code = "rows_mixed"

    def __init__(self, what: str, node: str = "", operator: str = "", module: str = "") -> None:
        self.what = what
        self.node = node
        self.operator = operator
        self.module = module
        named = f"node {node!r} ({operator})" if node else operator
        place = " in ".join(
            each for each in (named, f"module {module!r}" if module else "") if each
        )
        where = f": rows meet in {place}" if place else ""
        super().__init__(
            f"a row's {what} depends on the other rows of its batch, so it has no influence of its own{where}. "
            f"{_way_out(operator or module)}"
        )


# Words in an operator's name, and what to do about it.
_WAYS_OUT = (
    (
        ("softmax", "attention", "bmm"),
        "Build attention with batch_first=True; where rows of a batch are compared with each other (contrastive "
        "losses), give each row its own candidates as an input, (rows, candidates, …)",
    ),
    (
        ("lstm", "gru", "rnn", "transformer"),
        "Build it with batch_first=True, and give it inputs of (rows, positions, …)",
    ),
    (
        ("cumsum", "logcumsumexp", "cummax", "cummin", "cumprod", "sort", "topk", "flip", "roll"),
        "Give each row the whole set that it is compared with (its risk set, its window) as an input of its own, "
        "(rows, members, …), and take sums and orders over dimension 1",
    ),
    (
        ("batch_norm", "batchnorm"),
        "Use running statistics (track_running_stats=True, and eval mode), or GroupNorm or LayerNorm",
    ),
    (
        ("mean", "sum", "std", "var", "max", "min", "norm", "prod", "median"),
        "Take it within a row (dim=1 and up), or use fixed numbers, such as the training set's, kept in a buffer",
    ),
)


def _way_out(operator: str) -> str:
    for words, advice in _WAYS_OUT:
        if any(word in operator.lower() for word in words):
            return advice
    return (
        "Let forward treat each row by itself: dimension 0 is the row in every operator, and attention and "
        "recurrent layers need batch_first=True"
    )


class NotFinite(EngineError):
    """NaN or Inf; says in what, and in which row or parameter."""

    code = "not_finite"

    def __init__(self, what: str, *, row: int | None = None, parameter: str | None = None) -> None:
        self.what = what
        self.row = row
        self.parameter = parameter
        where = f" at row {row}" if row is not None else ""
        where += f" in parameter {parameter!r}" if parameter is not None else ""
        super().__init__(f"NaN or Inf in {what}{where}; correct or leave it out")


class SingularHessian(EngineError):
    """H + λI is singular or indefinite. With `bound` its smallest eigenvalue is known from above only.

    `rounding` names the type whose rounding hides that eigenvalue's sign, if one does.
    """

    code = "singular_hessian"

    def __init__(
        self,
        smallest_eigenvalue: float,
        damping: float,
        suggested_damping: float,
        *,
        bound: bool = False,
        rounding: str = "",
    ) -> None:
        self.smallest_eigenvalue = smallest_eigenvalue
        self.damping = damping
        self.suggested_damping = suggested_damping
        kind = "indefinite" if smallest_eigenvalue < 0 and not rounding else "singular"
        super().__init__(
            f"H + λI is {kind} to working precision: its smallest eigenvalue is "
            f"{'at most ' if bound else ''}{smallest_eigenvalue:.4g} at λ = {damping:.4g}; "
            f"a hessian_regularization of {suggested_damping:.4g} {'should' if bound else 'would'} do"
            + (
                f". That eigenvalue is within the rounding of {rounding}: with precision 'float64' this λ may do, too"
                if rounding
                else ""
            )
        )


class Diverged(EngineError):
    """An iteration that cannot converge with its scale."""

    code = "diverged"

    def __init__(self, scale: float, suggested_scale: float | None, reason: str) -> None:
        self.scale = scale
        self.suggested_scale = suggested_scale
        advice = f"; try scale = {suggested_scale:.4g}" if suggested_scale is not None else ""
        super().__init__(f"diverged at scale = {scale:.4g}: {reason}{advice}")


class TrainingDiverged(EngineError):
    """A training whose loss, or weights, became NaN or infinite, or ended far above where it began."""

    code = "training_diverged"

    def __init__(
        self,
        model: int,
        epoch: int,
        step: int,
        rate: float,
        rose: tuple[float, float] | None = None,
    ) -> None:
        """`model`: which of those that train together. `epoch` and `step` count from 1. `rose`: the first batch's loss
        before the first step and after the last, where it stayed finite."""
        self.model, self.epoch, self.step, self.rate = model, epoch, step, rate
        what = (
            f"NaN or infinity in epoch {epoch}, at step {step}"
            if rose is None
            else f"the loss of its first batch rose from {rose[0]:.3g} to {rose[1]:.3g} by the end of epoch {epoch}"
        )
        super().__init__(
            f"the training diverged: {what}, with learning rate {rate:.4g}; "
            "lower 'lr', give a schedule with 'linear_warmup', or look for rows whose values are extreme"
        )


class OutOfMemory(EngineError):
    """Not even the smallest block fits into memory."""

    code = "out_of_memory"

    def __init__(self, what: str, way_out: str) -> None:
        self.what = what
        self.way_out = way_out
        super().__init__(f"out of memory for {what}; {way_out}")
