"""Models as users have them, with the inputs and dynamic shapes to export them by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

BATCH = torch.export.Dim("batch")


class Residual(nn.Module):
    """In-place activation and addition, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 3, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.relu(self.bn1(self.conv1(x))))
        out += x
        return self.fc(torch.flatten(self.pool(self.relu(out)), 1))


class Attention(nn.Module):
    """Causal attention over embeddings; tied in and out, a dict as output, a plain constant."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.qkv = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.tensor(0.5), persistent=False)
        self.constant = torch.ones(16)

    def forward(self, ids: torch.Tensor) -> dict[str, Any]:
        with torch.no_grad():
            position = torch.arange(ids.shape[1], device=ids.device).float().sin()
        x = self.norm(self.embed(ids) + position[:, None] * self.constant)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).unbind(-3)
        mixed = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + mixed.transpose(1, 2).reshape(x.shape) * self.scale * self.hidden
        return {"logits": self.head(x), "states": None}


class Recurrent(nn.Module):
    """A recurrence written out, cells in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.Linear(4 + 6, 6), nn.Linear(6 + 6, 6)])
        self.out = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = [x.new_zeros(x.shape[0], 6) for _ in self.cells]
        for step in range(x.shape[1]):
            value = x[:, step]
            for i, cell in enumerate(self.cells):
                states[i] = value = torch.tanh(cell(torch.cat([value, states[i]], dim=1)))
        return self.out(value)


class TwoInputs(nn.Module):
    """A program that computes its own loss per row, with an optional argument left out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(
        self, input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        loss = functional.cross_entropy(self.net(input) * self.frozen, target, reduction="none")
        return loss if weight is None else loss * weight


def _group() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.LayerNorm(24),
        nn.Linear(24, 2),
    )  # fmt: skip


def _cnn() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 10),
    )  # fmt: skip
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    return net


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def _bag() -> nn.Module:
    return nn.Sequential(nn.Embedding(20, 8, padding_idx=0), nn.Flatten(), nn.Linear(40, 3))


@dataclass(frozen=True)
class Case:
    """A model, rows for it, and how it is exported."""

    make: Callable[[], nn.Module]
    rows: Callable[[int], tuple[torch.Tensor, ...]]
    dynamic: tuple[Any, ...] = ({0: BATCH},)
    extra: tuple[Any, ...] = ()
    decomposed: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()


def floats(*shape: int) -> Callable[[int], tuple[torch.Tensor, ...]]:
    return lambda n: (torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)),)


def tokens(length: int) -> Callable[[int], tuple[torch.Tensor, ...]]:
    return lambda n: (
        torch.randint(0, 20, (n, length), generator=torch.Generator().manual_seed(n)),
    )


def _rows_and_targets(n: int) -> tuple[torch.Tensor, ...]:
    return (*floats(4)(n), torch.arange(n) % 3)


_SEQUENCE = ({0: BATCH, 1: torch.export.Dim("length")},)
_PAIR = ({0: BATCH}, {0: BATCH}, None)

CASES = {
    "mlp": Case(_mlp, floats(4)),
    "cnn": Case(_cnn, floats(1, 8, 8)),
    "cnn-decomposed": Case(_cnn, floats(1, 8, 8), decomposed=True),
    "residual": Case(Residual, floats(3, 6, 6)),
    "residual-decomposed": Case(Residual, floats(3, 6, 6), decomposed=True),
    "encoder": Case(_encoder, floats(5, 16)),
    "encoder-decomposed": Case(_encoder, floats(5, 16), decomposed=True),
    "attention": Case(Attention, tokens(7), _SEQUENCE),
    "attention-decomposed": Case(Attention, tokens(7), _SEQUENCE, decomposed=True),
    "group": Case(_group, floats(3, 8)),
    "embedding": Case(_bag, tokens(5)),
    "recurrent": Case(Recurrent, floats(3, 4)),
    "loss": Case(TwoInputs, _rows_and_targets, _PAIR, extra=(None,)),
}


def export(case: Case, path: Path, model: nn.Module | None = None) -> Path:
    """Writes the case as users do."""
    model = model or case.model()
    exported = torch.export.export(
        model, (*case.rows(4), *case.extra), dynamic_shapes=case.dynamic, **case.options
    )
    if case.decomposed:
        exported = exported.run_decompositions()
    torch.export.save(exported, path)
    return path
