"""What a reader hands over: a module that computes, and the shape of what goes in and comes out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn

ProgramFormat = Literal["pt2", "factory", "huggingface"]


@dataclass(frozen=True)
class InputSpec:
    """One positional argument of the module. A dimension of None is dynamic; the batch is first.

    `example` is the shape with which the user exported the model.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...]


@dataclass(frozen=True)
class OutputSpec:
    """A tensor which the module returns. A dimension of None is dynamic; the batch is first."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter under the name it had in the user's model; tied ones are named once."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool


@dataclass(frozen=True)
class Program:
    """A program in evaluation mode on the CPU: `module(*inputs)` is one tensor, a row per example, or two of them.

    `inputs` and `outputs` are empty where the format does not say (factories): they are then
    known only once a dataset is there, and `arguments` holds what forward calls its inputs.
    `batch_maximum` is the largest batch for which the user exported the graph, None without bound.
    `outputs` are what the loss takes, of all that the user's model returns. `example` has rows that the
    user gave, by the names of the inputs.
    """

    module: nn.Module
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    format: ProgramFormat
    batch_maximum: int | None = None
    arguments: tuple[str, ...] = ()
    example: Mapping[str, Tensor] | None = None

    def describe(self) -> dict[str, Any]:
        """All but the module, as JSON."""
        return {
            "format": self.format,
            "inputs": [asdict(spec) for spec in self.inputs],
            "arguments": list(self.arguments),
            "outputs": [asdict(spec) for spec in self.outputs],
            "parameters": [asdict(spec) for spec in self.parameters],
            "batch_maximum": self.batch_maximum,
        }


def parameter_specs(module: nn.Module) -> tuple[ParameterSpec, ...]:
    """The module's parameters in their own order, a tied one once."""
    return tuple(
        ParameterSpec(name, tuple(value.shape), dtype_name(value.dtype), value.requires_grad)
        for name, value in module.named_parameters()
    )


def dtype_name(dtype: object) -> str:
    """`torch.float32` as "float32": the name that NumPy and safetensors share."""
    return str(dtype).removeprefix("torch.")
