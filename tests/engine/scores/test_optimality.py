"""How far θ is from an optimum is told from gradients that agree with plain autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import Problem, TensorRows, make_loss, optimality
from workers.engine.scores.optimality import MOST_ROWS

DECAY = 0.03


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


def data(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def flat_gradient(net: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(net.parameters()))])


def trained(net: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        weights = sum((each.square().sum() for each in net.parameters()), torch.tensor(0.0))
        loss = F.cross_entropy(net(x), y) + DECAY / 2 * weights
        loss.backward()
        return loss

    optimizer.step(objective)
    return net


def test_norms_are_those_of_plain_autograd() -> None:
    net, (x, y) = classifier(), data(40)
    found = optimality(Problem(net, make_loss("cross_entropy")), TensorRows(x, y))
    theta = torch.cat([each.detach().flatten() for each in net.parameters()])
    mean = flat_gradient(net, F.cross_entropy(net(x), y))
    rows = [flat_gradient(net, F.cross_entropy(net(x[i : i + 1]), y[i : i + 1])) for i in range(40)]
    typical = torch.stack(rows).square().sum(1).mean().sqrt()
    for decay in (0.0, 0.1, 2.0):
        expected = torch.linalg.vector_norm(mean + decay * theta).item()
        assert found.norm(decay) == pytest.approx(expected, rel=1e-10)
    assert found.typical_norm == pytest.approx(typical.item(), rel=1e-10)
    assert found.rows == 40


def test_weight_decay_of_training_is_found_below_lambda() -> None:
    x, y = data(60)
    net = trained(classifier(), x, y)
    found = optimality(Problem(net, make_loss("cross_entropy")), TensorRows(x, y))
    assert found.nearest_decay(1.0) == pytest.approx(DECAY, rel=1e-3)
    assert found.ratio(1.0) < 1e-4
    # λ below the weight decay of training can't make up for it.
    assert found.nearest_decay(DECAY / 2) == DECAY / 2
    assert found.ratio(DECAY / 2) > 1e-3


def test_an_untrained_model_is_far_from_an_optimum() -> None:
    x, y = data(60)
    found = optimality(Problem(classifier(), make_loss("cross_entropy")), TensorRows(x, y))
    assert found.ratio(DECAY) > 0.1


def test_a_sample_stands_for_many_rows() -> None:
    net, (x, y) = classifier(), data(3 * MOST_ROWS)
    found = optimality(Problem(net, make_loss("cross_entropy")), TensorRows(x, y))
    chosen = slice(None, None, 3)
    expected = flat_gradient(net, F.cross_entropy(net(x[chosen]), y[chosen]))
    assert found.rows == MOST_ROWS
    assert found.gradient_norm == pytest.approx(
        torch.linalg.vector_norm(expected).item(), rel=1e-10
    )


def test_batches_do_not_matter() -> None:
    net, (x, y) = classifier(), data(50)
    problem = Problem(net, make_loss("cross_entropy"))
    whole = optimality(problem, TensorRows(x, y))
    cut = optimality(problem, TensorRows(x, y), batch_size=7)
    assert cut.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-12)
    assert cut.typical_norm == pytest.approx(whole.typical_norm, rel=1e-12)


def test_parameters_that_no_row_moves_are_at_an_optimum() -> None:
    net = nn.Linear(2, 1).double().eval()
    x = torch.zeros(4, 2, dtype=torch.float64)
    with torch.no_grad():
        y = net(x)
    found = optimality(Problem(net, make_loss("mse")), TensorRows(x, y))
    assert found.ratio(0.1) == 0.0
