"""Error signals on their way back through a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A signal that is zero but at these entries of a tensor of this shape."""

    value: Tensor
    index: tuple[int | slice, ...]
    shape: tuple[int, ...]


class Signals:
    """The error signals, or R of them, that have arrived at nodes so far."""

    def __init__(self, reaching: set[str], found: dict[str, Tensor]) -> None:
        self._reaching, self._found = reaching, found
        self._pieced: set[str] = set()  # of tensors that nobody else has

    def add(self, names: Sequence[str], found: Sequence[Tensor | Piece | None]) -> None:
        """One more signal for each of these nodes, where it is wanted."""
        for name, each in zip(names, found, strict=True):
            if each is None or name not in self._reaching:
                continue
            if isinstance(each, Piece):
                if name not in self._pieced:
                    whole = each.value.new_zeros(each.shape)
                    self._found[name] = whole + self._found[name] if name in self._found else whole
                    self._pieced.add(name)
                self._found[name][each.index].add_(each.value)
            else:
                known = self._found.get(name)
                self._found[name] = each if known is None else known + each
                self._pieced.discard(name)

    def pop(self, name: str) -> Tensor | None:
        """What has arrived, None if nothing has."""
        return self._found.pop(name, None)
