"""What a name in the graph stands for, and which names share memory.

Exported graphs may hold in-place operators (`nn.ReLU(inplace=True)`), which transforms such as
vmap can't use. They are replaced by their functional twins; that is right only as long as nobody
looks at the same memory through another name, which is what the sharing is kept for.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx
from torch._ops import OpOverload

from workers.programs.errors import GraphInvalid, OperatorRefused, TrainMode
from workers.programs.names import names
from workers.programs.operators import FUNCTIONALISE

Kind = Literal["tensor", "symbol"]

# Composites that always return new memory. Other composites may return their input as it is.
_FRESH = names(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d avg_pool1d
    batch_norm bilinear column_stack concat concatenate conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d _convolution cosine_similarity cross_entropy_loss divide
    dstack float_power _fused_rms_norm group_norm gru hstack inner instance_norm l1_loss
    layer_norm linalg_norm linear log_sigmoid log_softmax lstm matmul max_pool1d max_pool2d
    max_pool3d multiply negative prelu relu6 rms_norm rnn_relu rnn_tanh
    scaled_dot_product_attention selu softmax square std subtract true_divide upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d var vstack where
    """
)


@dataclass(eq=False)
class Memory:
    """A piece of memory; `owner` names it if it outlives the call (a parameter, an input)."""

    owner: str | None = None
    users: list["Value"] = field(default_factory=list)


@dataclass(eq=False)
class Value:
    """A tensor or a size. `node` changes when the value is overwritten in place."""

    node: fx.Node
    kind: Kind
    memory: tuple[Memory, ...] = ()
    overwritten_by: str | None = None

    def __post_init__(self) -> None:
        for memory in self.memory:
            memory.users.append(self)

    def overwrite(self, node: fx.Node, target: str) -> None:
        """The value is `node` from now on; every other view of its memory becomes unusable."""
        for memory in self.memory:
            if memory.owner is not None:
                raise _outlives(memory.owner, target)
            for other in memory.users:
                if other is not self:
                    other.overwritten_by = target
        self.node = node


class Scope:
    """The names that a graph, or a graph within it, may use."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}

    def bind(self, name: str, value: Value) -> None:
        """Gives `value` a name that is not taken."""
        if name in self._values:
            raise GraphInvalid(f"the name {name!r} is given twice")
        self._values[name] = value

    def find(self, name: str, kind: Kind) -> Value:
        """The value of this name, if it is of this kind and still what it was."""
        value = self._values.get(name)
        if value is None:
            raise GraphInvalid(f"{name!r} is used before it is made")
        if value.kind != kind:
            raise GraphInvalid(f"{name!r} is a {value.kind}, not a {kind}")
        if value.overwritten_by is not None:
            raise OperatorRefused(
                f"{value.overwritten_by} writes to memory that {name!r} shares. {FUNCTIONALISE}"
            )
        return value


def result_memory(op: OpOverload, inputs: list[Value]) -> tuple[Memory, ...]:
    """The memory that a result of `op` may lie in: its inputs' if it may be a view, else new."""
    if not may_alias(op):
        return (Memory(),)
    shared = dict.fromkeys(memory for value in inputs for memory in value.memory)
    return tuple(shared) or (Memory(),)


def may_alias(op: OpOverload) -> bool:
    """Whether a result of `op` may share memory with an argument."""
    if any(result.alias_info is not None for result in op._schema.returns):
        return True
    if op._schema.name.removeprefix("aten::") in _FRESH:
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        op.name(), "CompositeImplicitAutograd"
    )
    return bool(composite)


def _outlives(owner: str, target: str) -> OperatorRefused:
    if owner.startswith("buffer"):
        return TrainMode(
            f"{target} writes to the {owner}: the model was exported in training mode, or keeps a "
            "state. Call model.eval() before torch.export.export"
        )
    return OperatorRefused(f"{target} writes to the {owner}; compute a new tensor instead")
