"""Reentrant checkpoints give parameters no gradient where none of their inputs requires one: refused, and only there.

What is lost is what plain torch says: `backward` of the live module leaves `grad` None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from upweight import ExportFailed, export_program

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Net(nn.Module):
    """Three layers, the second of which is checkpointed in some way."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 4), nn.Linear(5, 2)
        self.block = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self._computed = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._computed(self, x))

    @property
    def trains_block(self) -> bool:
        """Whether torch's own backward gives the checkpointed layer a gradient."""
        self.zero_grad()
        self(rows()).square().sum().backward()
        return self.block[0].weight.grad is not None


def rows() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        return checkpoint(net.block, x, use_reentrant=True)


LOST: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "the first layer": (
        lambda net, x: checkpoint(net.block, x, use_reentrant=True), r"^block \(Sequential\): ",
    ),
    "a function": (
        lambda net, x: checkpoint(lambda y: net.block(y) + 1, x, use_reentrant=True), r"^Net, `",
    ),
    "what was detached": (
        lambda net, x: checkpoint(net.block, net.first(x).detach(), use_reentrant=True),
        r"^block \(Sequential\): ",
    ),
    "a sequence": (
        lambda net, x: checkpoint_sequential(net.block, 2, x, use_reentrant=True), r"^Net, `",
    ),
}  # fmt: skip
KEPT: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "after a layer": lambda net, x: checkpoint(net.block, net.first(x), use_reentrant=True),
    "not reentrant": lambda net, x: checkpoint(net.block, x, use_reentrant=False),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_checkpoint_that_loses_gradients_is_refused_with_its_part_and_a_way_out(
    kind: str,
) -> None:
    forward, where = LOST[kind]
    net = Net(forward)
    assert not net.trains_block
    with pytest.raises(ExportFailed, match=rf"{where}.*use_reentrant=False") as caught:
        export_program(net, rows())
    assert "requires_grad_(False)" in str(caught.value)


@pytest.mark.parametrize("kind", KEPT)
def test_a_checkpoint_that_keeps_gradients_is_exported(kind: str) -> None:
    net = Net(KEPT[kind])
    assert net.trains_block
    export_program(net, rows())


@pytest.mark.parametrize("globs", [None, ["head.*"]])
def test_the_ways_out_are_taken(globs: Sequence[str] | None) -> None:
    net = Net(LOST["the first layer"][0])
    if globs is None:
        net.block.requires_grad_(False)
    export_program(net, rows(), parameters=globs)


def test_a_checkpoint_without_gradients_is_a_constant_as_in_torch() -> None:
    net = Net(without_gradients)
    assert not net.trains_block
    export_program(net, rows())
