"""Baselines without an inversion, each beside plain autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers import engine
from workers.engine.scores.baselines import Blocks, activation_similarity, gradient_products

torch.manual_seed(3)
NETWORK = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
X, Y = torch.randn(20, 5, dtype=torch.float64), torch.randint(0, 3, (20,))
TRAIN, TEST = engine.TensorRows(X[:14], Y[:14]), engine.TensorRows(X[14:], Y[14:])


def problem(module: nn.Module = NETWORK) -> engine.Problem:
    return engine.Problem(module, engine.make_loss("cross_entropy"))


def whole(blocks: Blocks, shape: tuple[int, int] = (6, 14)) -> Tensor:
    found = torch.full(shape, torch.nan, dtype=torch.float64)
    for test, train, block in blocks:
        assert torch.isnan(found[test, train]).all()  # each once
        found[test, train] = block
    return found


def gradients() -> Tensor:
    found = []
    for x, y in zip(X, Y, strict=True):
        loss = F.cross_entropy(NETWORK(x[None]), y[None])
        found.append(
            torch.cat(
                [each.flatten() for each in torch.autograd.grad(loss, [*NETWORK.parameters()])]
            )
        )
    return torch.stack(found)


@pytest.mark.parametrize("budget", [1 << 30, 1 << 11], ids=["at once", "in many blocks"])
def test_gradient_products_are_those_of_autograd(budget: int) -> None:
    found = whole(gradient_products(problem(), TEST, TRAIN, budget_bytes=budget))
    torch.testing.assert_close(found, gradients()[14:] @ gradients()[:14].T)


@pytest.mark.parametrize("budget", [1 << 30, 1 << 11], ids=["at once", "in many blocks"])
def test_cosines_of_gradients_are_those_of_autograd(budget: int) -> None:
    found = whole(gradient_products(problem(), TEST, TRAIN, cosine=True, budget_bytes=budget))
    unit = F.normalize(gradients(), dim=1)
    torch.testing.assert_close(found, unit[14:] @ unit[:14].T)


def test_activations_are_compared_before_the_last_linear_layer() -> None:
    hidden = F.normalize(NETWORK[:2](X), dim=1)
    found = whole(activation_similarity(problem(), TEST, TRAIN))
    torch.testing.assert_close(found, (hidden[14:] @ hidden[:14].T).detach())


def test_activations_of_several_tokens_are_compared_by_their_mean() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens)).mean(1)

    module, tokens = Tokens().double(), torch.randint(0, 7, (20, 6))
    test, train = (engine.TensorRows(tokens[part], Y[part]) for part in (slice(14, 20), slice(14)))
    hidden = F.normalize(module.embed(tokens).mean(1), dim=1).detach()
    found = whole(activation_similarity(problem(module), test, train))
    torch.testing.assert_close(found, hidden[14:] @ hidden[:14].T)


def test_a_model_without_a_linear_layer_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] * self.scale

    with pytest.raises(engine.BadParameter, match="linear layer"):
        whole(activation_similarity(problem(Scaled()), TEST, TRAIN))
