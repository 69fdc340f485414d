"""Small models of every kind, with data and with torch's own loss as the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import TensorRows

ReferenceLoss = Callable[[Tensor, Tensor], Tensor]  # one example, batch of one -> scalar


@dataclass(frozen=True)
class Case:
    """A model in float64, n training and m test rows, and the loss under both names."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    targets: Tensor
    loss: str
    reference_loss: ReferenceLoss
    test_count: int = 3
    parameters: tuple[str, ...] = ("*",)
    loss_parameters: dict[str, object] = field(default_factory=dict)

    @property
    def train(self) -> TensorRows:
        return TensorRows([each[self.test_count :] for each in self.inputs], self.train_targets)

    @property
    def test(self) -> TensorRows:
        return TensorRows(
            [each[: self.test_count] for each in self.inputs], self.targets[: self.test_count]
        )

    @property
    def train_targets(self) -> Tensor:
        return self.targets[self.test_count :]

    @property
    def train_count(self) -> int:
        return len(self.targets) - self.test_count


class TiedAutoencoder(nn.Module):
    """Encoder and decoder share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.encode(x)))


class BagOfWords(nn.Module):
    """Token ids in, so only the embedding's output can be perturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)).mean(1))


class MaskedPair(nn.Module):
    """Two inputs, one of them a boolean mask."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x)).masked_fill(~mask, 0.0)
        return self.second(hidden)


class Encoder(nn.Module):
    """Attention, layer norm and a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 3, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Recurrent(nn.Module):
    """An LSTM, which has no forward-mode rule."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def _convolutional() -> nn.Module:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    module(torch.randn(32, 1, 6, 6))  # running statistics other than 0 and 1
    return module


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def mse(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target)


def classes(count: int, of: int = 3) -> Tensor:
    return torch.arange(count) % of


def linear_regression() -> Case:
    return _case(nn.Linear(4, 3), (torch.randn(23, 4),), torch.randn(23, 3), "mse", mse)


def softmax_regression() -> Case:
    return _case(nn.Linear(4, 3), (torch.randn(23, 4),), classes(23))


def perceptron() -> Case:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))
    return _case(module, (torch.randn(23, 4),), classes(23))


def convolutional() -> Case:
    return _case(_convolutional(), (torch.randn(9, 1, 6, 6),), classes(9))


def encoder() -> Case:
    return _case(Encoder(), (torch.randn(8, 3, 4),), classes(8))


def recurrent() -> Case:
    return _case(Recurrent(), (torch.randn(8, 3, 2),), torch.randn(8, 1), "mse", mse)


def tied() -> Case:
    return _case(TiedAutoencoder(), (torch.randn(17, 4),), torch.randn(17, 4), "mse", mse)


def bag_of_words() -> Case:
    return _case(BagOfWords(), (torch.randint(7, (19, 4)),), classes(19, 2))


def masked_pair() -> Case:
    mask = torch.rand(19, 4) > 0.3
    return _case(MaskedPair(), (torch.randn(19, 3), mask), classes(19, 2))


def group_norm() -> Case:
    module = nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.SiLU(), nn.Linear(6, 3))
    return _case(module, (torch.randn(19, 4),), classes(19))


def only_the_head() -> Case:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return _case(module, (torch.randn(23, 4),), classes(23), parameters=("2.*",))


def _case(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    targets: Tensor,
    loss: str = "cross_entropy",
    reference_loss: ReferenceLoss = cross_entropy,
    parameters: tuple[str, ...] = ("*",),
) -> Case:
    def wide(value: Tensor) -> Tensor:
        return value.double() if value.is_floating_point() else value

    return Case(
        module.double().eval(),
        tuple(wide(each) for each in inputs),
        wide(targets),
        loss,
        reference_loss,
        parameters=parameters,
    )


def make(name: str) -> Case:
    """The case of that name, the same one every time."""
    torch.manual_seed(7)
    return CASES[name]()


CASES: dict[str, Callable[[], Case]] = {
    each.__name__: each
    for each in (
        linear_regression,
        softmax_regression,
        perceptron,
        convolutional,
        encoder,
        recurrent,
        tied,
        bag_of_words,
        masked_pair,
        group_norm,
        only_the_head,
    )
}
