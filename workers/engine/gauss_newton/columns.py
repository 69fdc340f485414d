"""The columns of G, layer by layer as outer products, or written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.autodiff.graph.nodes import part_of
from workers.engine.model.batching import cached_bytes
from workers.engine.model.parameters import ParameterSlice


class RootColumns(Protocol):
    """G (p, D)."""

    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of."""
        ...

    def gram(self) -> Tensor:
        """Gᵀ G, (D, D)."""
        ...

    def rmatmat(self, vectors: Tensor) -> Tensor:
        """Gᵀ v for each row v: (k, p) to (k, D)."""
        ...

    def matmat(self, weights: Tensor) -> Tensor:
        """G w for each row w: (k, D) to (k, p)."""
        ...


CACHE_SHARE = 4  # of what a part of the vectors may fill, its product with the widest layer


@dataclass(frozen=True)
class Written:
    """As they are."""

    columns: Tensor  # (D, p)

    def tensors(self) -> dict[str, Tensor]:
        return {"columns": self.columns}

    def gram(self) -> Tensor:
        return self.columns @ self.columns.T

    def rmatmat(self, vectors: Tensor) -> Tensor:
        return vectors @ self.columns.T

    def matmat(self, weights: Tensor) -> Tensor:
        return weights @ self.columns


@dataclass(frozen=True)
class Outer:
    """Of one linear layer: signal times input, and signal for the bias."""

    weight_slice: ParameterSlice | None
    bias_slice: ParameterSlice | None
    inputs: Tensor  # (D, in)
    signals: Tensor  # (out, D), dense: as products with it lie


@dataclass(frozen=True)
class OuterProducts:
    """Of linear layers that share no parameter, in a space of `size` parameters."""

    layers: Sequence[Outer]
    size: int

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, each in enumerate(self.layers):
            found |= {f"inputs_{number}": each.inputs, f"signals_{number}": each.signals}
        return found

    def gram(self) -> Tensor:
        total = self.layers[0].signals.new_zeros(2 * [self.count])
        for each in self.layers:
            inner = each.signals.T @ each.signals
            if each.weight_slice is not None:
                beside = each.inputs @ each.inputs.T
                total += inner * (beside if each.bias_slice is None else beside + 1.0)
            elif each.bias_slice is not None:
                total += inner
        return total

    def rmatmat(self, vectors: Tensor) -> Tensor:
        return torch.cat([self._rmatmat(part) for part in torch.split(vectors, self._at_once)])

    def matmat(self, weights: Tensor) -> Tensor:
        return torch.cat([self._matmat(part) for part in torch.split(weights, self._at_once)])

    @property
    def count(self) -> int:
        """D."""
        return self.layers[0].signals.shape[1]

    @property
    def _at_once(self) -> int:
        """Vectors whose products with a layer stay in cache."""
        widest = max(each.signals.numel() * each.signals.element_size() for each in self.layers)
        return max(1, cached_bytes(self.layers[0].signals.device.type) // (CACHE_SHARE * widest))

    def _rmatmat(self, vectors: Tensor) -> Tensor:
        total = vectors.new_zeros(len(vectors), self.count)
        for each in self.layers:
            if each.weight_slice is not None:
                rows = part_of(vectors, each.weight_slice).reshape(-1, each.inputs.shape[1])
                found = (rows @ each.inputs.T).view(len(vectors), -1, total.shape[1])
                total += found.mul_(each.signals).sum(1)
            if each.bias_slice is not None:
                total += part_of(vectors, each.bias_slice) @ each.signals
        return total

    def _matmat(self, weights: Tensor) -> Tensor:
        result = weights.new_zeros(len(weights), self.size)
        for each in self.layers:
            if each.weight_slice is not None:
                weighed = (weights.unsqueeze(1) * each.signals).flatten(0, 1)  # (k · out, D)
                found = (weighed @ each.inputs).view(len(weights), -1)
                part_of(result, each.weight_slice).copy_(found)
            if each.bias_slice is not None:
                part_of(result, each.bias_slice).copy_(weights @ each.signals.T)
        return result
