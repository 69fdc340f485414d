"""Arguments of the schema as what an operator is called with."""

from collections.abc import Callable
from typing import Any

import torch

from workers.programs.errors import GraphInvalid
from workers.programs.scalars import dtype_of, memory_format_of, require_strided
from workers.programs.schema import Argument
from workers.programs.values import Scope, Value


class ArgumentReader:
    """Turns arguments into Python values; the tensors that were met are kept in `tensors`."""

    def __init__(self, scope: Scope, list_length: int) -> None:
        self._scope = scope
        self._list_length = list_length
        self.tensors: list[Value] = []

    def read(self, argument: Argument) -> Any:
        """The Python value, with fx nodes for names."""
        reader = _READERS.get(argument.kind)
        if reader is None:
            raise GraphInvalid(f"an argument of kind {argument.kind} has no place here")
        value = argument.value
        if isinstance(value, list) and len(value) > self._list_length:
            raise GraphInvalid(f"a list of {len(value)}; the limit is {self._list_length}")
        return reader(self, value)

    def tensor(self, name: str) -> Any:
        """The node of the tensor of this name."""
        value = self._scope.find(name, "tensor")
        self.tensors.append(value)
        return value.node

    def symbol(self, argument: Any) -> Any:
        """The node of a size, or the number itself."""
        if argument.kind == "as_name":
            return self._scope.find(argument.value, "symbol").node
        return as_number(argument.value)

    def optional(self, argument: Any) -> Any:
        """The node of the tensor, or None."""
        return None if argument.kind == "as_none" else self.tensor(argument.value.name)


def as_number(value: Any) -> Any:
    """JSON has no infinities: torch writes them as words."""
    return float(value) if isinstance(value, str) else value


def _layout(value: Any) -> torch.layout:
    require_strided(value)
    return torch.strided


# Whatever device the user exported on, the program is read on the CPU.
_CPU = torch.device("cpu")

_READERS: dict[str, Callable[[ArgumentReader, Any], Any]] = {
    "as_none": lambda _, _value: None,
    "as_tensor": lambda reader, value: reader.tensor(value.name),
    "as_tensors": lambda reader, value: [reader.tensor(one.name) for one in value],
    "as_optional_tensor": lambda reader, value: reader.optional(value),
    "as_optional_tensors": lambda reader, value: [reader.optional(one) for one in value],
    "as_int": lambda _, value: value,
    "as_ints": lambda _, value: list(value),
    "as_bool": lambda _, value: value,
    "as_bools": lambda _, value: list(value),
    "as_float": lambda _, value: as_number(value),
    "as_floats": lambda _, value: [as_number(one) for one in value],
    "as_complex": lambda _, value: complex(as_number(value.real), as_number(value.imag)),
    "as_string": lambda _, value: value,
    "as_sym_int": lambda reader, value: reader.symbol(value),
    "as_sym_ints": lambda reader, value: [reader.symbol(one) for one in value],
    "as_sym_float": lambda reader, value: reader.symbol(value),
    "as_sym_floats": lambda reader, value: [reader.symbol(one) for one in value],
    "as_sym_bool": lambda reader, value: reader.symbol(value),
    "as_scalar_type": lambda _, value: dtype_of(value),
    "as_memory_format": lambda _, value: memory_format_of(value),
    "as_layout": lambda _, value: _layout(value),
    "as_device": lambda _, _value: _CPU,
}
