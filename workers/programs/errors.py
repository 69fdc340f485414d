"""Everything that can be wrong with a program, as one tree.

ProgramError
├── PolicyRefused         the operator does not take this format
├── PickleRefused         a pickle or TorchScript file, which would run code when opened
├── ArchiveInvalid        not an archive that torch.export.save writes
├── TooLarge              over one of the limits
├── WeightsInvalid        a weight whose bytes and description do not agree
├── GraphInvalid          a graph which does not follow the schema
├── OperatorRefused       an operator which is not on the list
│   ├── RandomOperator    it draws random numbers
│   └── TrainMode         it was exported in training mode
├── BatchNotDynamic       the graph holds for one batch size only
├── InputUnsupported      an input which is not one tensor row per example
├── OutputUnsupported     an output which is not one row per example
├── FactoryRefused        the factory is not on the operator's list, or its arguments are wrong
├── FactoryFailed         the factory raised, or made no module
├── ConfigRefused         a Hugging Face config that is not allowed, or makes no model
├── StateMismatch         the weights are not those of the model which the factory or config made
└── CheckFailed           the isolated check ended without an answer
    ├── CheckTimedOut
    ├── CheckOutOfMemory
    └── CheckCrashed
        └── CheckDied
"""

from typing import ClassVar, Self

TORCH = "torch 2.9 to 2.15"  # whose archives were read in our tests
EXPORT_LINE = (
    "torch.export.save(torch.export.export(model.eval(), (x,), "
    'dynamic_shapes=({0: torch.export.Dim("batch")},)), "model.pt2")'
)


class ProgramError(Exception):
    """A program was refused. `code` is stable, `field` points into the request (RFC 6901)."""

    code: ClassVar[str] = "program-invalid"
    default_field: ClassVar[str] = "/program/blob"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field or self.default_field

    def as_dict(self) -> dict[str, str]:
        """The error as JSON: what crosses the process boundary."""
        return {"code": self.code, "field": self.field, "message": self.message}


class PolicyRefused(ProgramError):
    """The operator does not take this format."""

    code = "program-policy"
    default_field = "/program/format"


class PickleRefused(ProgramError):
    """A pickle or TorchScript file."""

    code = "program-pickle"


class ArchiveInvalid(ProgramError):
    """Not an archive that `torch.export.save` writes."""

    code = "program-archive"


class TooLarge(ProgramError):
    """The program is over one of the limits."""

    code = "program-too-large"


class WeightsInvalid(ProgramError):
    """A weight whose bytes and description do not agree."""

    code = "program-weights"


class GraphInvalid(ProgramError):
    """A graph which does not follow the schema."""

    code = "program-graph"


class OperatorRefused(ProgramError):
    """An operator which is not on the list."""

    code = "program-operator"
    place: str | None = None

    def within(self, place: str) -> Self:
        """The same, saying where in the user's model it is; the innermost place stays."""
        if self.place is not None:
            return self
        error = type(self)(f"in {place}: {self.message}", field=self.field)
        error.place = place
        return error


class RandomOperator(OperatorRefused):
    """An operator which draws random numbers."""

    code = "program-random"


class TrainMode(OperatorRefused):
    """The model was exported in training mode."""

    code = "program-train-mode"


class BatchNotDynamic(ProgramError):
    """The graph holds for one batch size only."""

    code = "program-static-batch"


class InputUnsupported(ProgramError):
    """An input which is not a tensor with one row per example."""

    code = "program-input"


class OutputUnsupported(ProgramError):
    """An output which is not a tensor with one row per example."""

    code = "program-output"


class FactoryRefused(ProgramError):
    """The factory is not on the operator's list, or its arguments are not plain JSON."""

    code = "program-factory"
    default_field = "/program/factory"


class FactoryFailed(ProgramError):
    """The factory raised, or what it made is not a module."""

    code = "program-factory-failed"
    default_field = "/program/kwargs"


class ConfigRefused(ProgramError):
    """A Hugging Face config is of no allowed type, has more than its class knows, or makes no model."""

    code = "program-config"
    default_field = "/program/config"


class StateMismatch(ProgramError):
    """The weights are not those of the model which the factory or config made."""

    code = "program-state"
    default_field = "/program/weights"


class CheckFailed(ProgramError):
    """The isolated check ended without an answer."""

    code = "program-check"


class CheckTimedOut(CheckFailed):
    """The isolated check ran past its time."""

    code = "program-check-timeout"


class CheckOutOfMemory(CheckFailed):
    """The isolated check needed more memory than it may have."""

    code = "program-check-memory"


class CheckCrashed(CheckFailed):
    """The isolated check died, or answered nonsense."""

    code = "program-check-crashed"


class CheckDied(CheckCrashed):
    """A signal ended the isolated check: the program made a kernel of torch fail."""

    code = "program-check-died"


def from_dict(problem: dict[str, str]) -> ProgramError:
    """The error which `as_dict` described; an unknown code gives the base class."""
    kinds = {kind.code: kind for kind in _descendants(ProgramError)}
    kind = kinds.get(problem.get("code", ""), ProgramError)
    return kind(problem.get("message", "the program was refused"), field=problem.get("field"))


def _descendants(kind: type[ProgramError]) -> list[type[ProgramError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _descendants(child))]
