"""Training as one batched program, against a plain torch loop in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upweight.schema import Recipe
from workers.engine import Problem, TensorRows, Training, TrainingDiverged, TrainingState, make_loss
from workers.engine.training.gradient import StackedGradient
from workers.retraining.recipes import plan_of

ROWS, FEATURES, CLASSES = 60, 5, 3
TOLERANCE = 1e-10  # of the largest weight


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (ROWS,), generator=generator)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES))
    return net.double().eval()


OPTIMISERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def plainly_trained(
    recipe: Recipe, net: nn.Module, x: Tensor, y: Tensor, rows: Tensor, weights: Tensor | None
) -> Tensor:
    """As anybody writes it: torch's optimiser and scheduler, batch by batch."""
    named: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        named |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    optimiser = OPTIMISERS[recipe.optimizer](net.parameters(), **named)
    size = recipe.batch_size or len(rows)
    total = recipe.steps(len(rows))
    schedule: Any = None
    if recipe.schedule.name == "step":
        steps = recipe.steps_an_epoch(len(rows)) * recipe.schedule.epochs
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, steps, recipe.schedule.gamma)
    elif recipe.schedule.name == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimiser, total, recipe.schedule.final
        )
    elif recipe.schedule.name == "linear_warmup":
        first = recipe.schedule.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: min(1.0, (t + 1) / first))
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + epoch) % 2**63)
        order = rows[torch.randperm(len(rows), generator=generator)]
        for batch in order.split(size):
            optimiser.zero_grad()
            losses = nn.functional.cross_entropy(net(x[batch]), y[batch], reduction="none")
            (losses if weights is None else losses * weights[batch]).mean().backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
    return torch.cat([each.detach().reshape(-1) for each in net.parameters()])


def subsets(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.stack([torch.randperm(ROWS, generator=generator)[:size] for _ in range(count)])


SIZES = (41, 40, 33, 32)  # in batches of 8 the last two take fewer steps an epoch


def of_sizes(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randperm(ROWS, generator=generator)[:size] for size in sizes]


def trained(recipe: Recipe, chosen: Any, **given: Any) -> tuple[Tensor, Training]:
    x, y = data()
    problem = Problem(network(), make_loss("cross_entropy"))
    rows = TensorRows(x, y)
    training = Training(problem, rows, chosen, plan_of(recipe), problem.theta, **given)
    for _ in training.epochs():
        pass
    return training.state.theta, training


RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.1},
    "momentum and decay": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True},
    "adam with decay": {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "step": {
        "optimizer": "sgd",
        "lr": 0.1,
        "schedule": {"name": "step", "epochs": 2, "gamma": 0.5},
    },
    "cosine": {"optimizer": "adamw", "lr": 0.01, "schedule": {"name": "cosine", "final": 1e-3}},
    "warm-up": {"optimizer": "sgd", "lr": 0.1, "schedule": {"name": "linear_warmup", "steps": 7}},
}


@pytest.mark.parametrize("name", ["momentum and decay", "adamw"])
def test_models_that_train_together_are_those_of_a_plain_loop(name: str) -> None:
    """Batches of 8 of 27 rows: the last one of an epoch is smaller."""
    recipe = Recipe(**RECIPES[name], batch_size=8, epochs=5, seed=3)
    chosen = subsets(3, 27)
    theta, training = trained(recipe, chosen)
    assert training.together
    x, y = data()
    for row, found in zip(chosen, theta, strict=True):
        wanted = plainly_trained(recipe, network(), x, y, row, None)
        assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize("name", RECIPES)
def test_models_on_subsets_of_different_sizes_are_those_of_a_plain_loop(name: str) -> None:
    recipe = Recipe(**RECIPES[name], batch_size=8, epochs=5, seed=3)
    chosen = of_sizes(*SIZES)
    weights = torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)
    theta, training = trained(recipe, chosen, weights=weights)
    assert training.together
    x, y = data()
    for row, found in zip(chosen, theta, strict=True):
        wanted = plainly_trained(recipe, network(), x, y, row, weights)
        assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_the_losses_of_an_epoch_are_means_over_each_models_own_rows() -> None:
    recipe = Recipe(optimizer="sgd", lr=1e-12, batch_size=8, epochs=1)
    x, y = data()
    problem = Problem(network(), make_loss("cross_entropy"))
    chosen = of_sizes(*SIZES)
    training = Training(problem, TensorRows(x, y), chosen, plan_of(recipe), problem.theta)
    (losses,) = training.epochs()
    for row, found in zip(chosen, losses, strict=True):
        with torch.no_grad():
            wanted = nn.functional.cross_entropy(network()(x[row]), y[row])
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0.0)


def test_a_weight_multiplies_its_rows_loss() -> None:
    recipe = Recipe(optimizer="sgd", lr=0.1, batch_size=16, epochs=3)
    weights = torch.linspace(0.0, 2.0, ROWS, dtype=torch.float64)
    chosen = subsets(2, 40)
    theta, _ = trained(recipe, chosen, weights=weights)
    x, y = data()
    wanted = plainly_trained(recipe, network(), x, y, chosen[1], weights)
    assert (theta[1] - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_l_bfgs_takes_the_steps_of_torchs() -> None:
    recipe = Recipe(optimizer="lbfgs", lr=1.0, epochs=12, weight_decay=0.05)
    chosen = of_sizes(30, 25)
    theta, _ = trained(recipe, chosen)
    x, y = data()
    for row, found in zip(chosen, theta, strict=True):
        net = network()
        optimiser = torch.optim.LBFGS(
            net.parameters(), lr=1.0, max_iter=12, max_eval=1000, history_size=10,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure(net: nn.Module = net, row: Tensor = row, o: Any = optimiser) -> Tensor:
            o.zero_grad()
            loss = nn.functional.cross_entropy(net(x[row]), y[row])
            loss = loss + 0.025 * sum(each.square().sum() for each in net.parameters())
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        wanted = torch.cat([each.detach().reshape(-1) for each in net.parameters()])
        assert (found - wanted).abs().max() <= 1e-8 * wanted.abs().max()


def test_what_is_stored_in_between_goes_on_to_the_same_bytes() -> None:
    recipe = Recipe(optimizer="adamw", lr=0.01, batch_size=16, epochs=6)
    x, y = data()
    problem = Problem(network(), make_loss("cross_entropy"))
    chosen = subsets(3, 30)
    whole, _ = trained(recipe, chosen)
    first = Training(problem, TensorRows(x, y), chosen, plan_of(recipe), problem.theta)
    for _, _ in zip(range(3), first.epochs(), strict=False):
        pass
    state = TrainingState.of(first.state.tensors())
    second = Training(
        problem, TensorRows(x, y), chosen, plan_of(recipe), problem.theta, state=state
    )
    assert state.epoch == 3
    for _ in second.epochs():
        pass
    assert torch.equal(second.state.theta, whole)


def test_rows_that_do_not_fit_at_once_are_taken_in_parts() -> None:
    recipe = Recipe(optimizer="sgd", lr=0.1, epochs=3)
    chosen = of_sizes(40, 37)
    whole, _ = trained(recipe, chosen)
    parts, _ = trained(recipe, chosen, budget_bytes=1)
    assert torch.allclose(parts, whole, rtol=1e-12, atol=1e-13)


class Branches(nn.Module):
    """Looks at a number, which can't be mapped over models."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x)
        return scores * 2.0 if self.head.bias.detach().sum().item() > 0 else scores


def test_models_that_can_not_be_mapped_take_their_turns() -> None:
    torch.manual_seed(0)
    net = Branches().double().eval()
    x, y = data()
    problem = Problem(net, make_loss("cross_entropy"))
    recipe = Recipe(optimizer="sgd", lr=0.1, batch_size=16, epochs=3)
    chosen = subsets(2, 40)
    training = Training(problem, TensorRows(x, y), chosen, plan_of(recipe), problem.theta)
    for _ in training.epochs():
        pass
    assert not training.together
    wanted = plainly_trained(recipe, net, x, y, chosen[0], None)
    assert torch.allclose(training.state.theta[0], wanted, rtol=1e-9, atol=1e-11)


def test_a_training_that_diverges_says_when() -> None:
    x, y = data()
    torch.manual_seed(0)
    net = nn.Linear(FEATURES, 1).double().eval()
    problem = Problem(net, make_loss("mse"))
    recipe = Recipe(optimizer="sgd", lr=1e4, batch_size=16, epochs=99)
    rows = TensorRows(x, y.double()[:, None])
    training = Training(problem, rows, subsets(2, 40), plan_of(recipe), problem.theta)
    with pytest.raises(TrainingDiverged, match=r"in epoch \d+, at step \d+, with learning rate"):
        for _ in training.epochs():
            pass


def test_a_model_that_diverges_is_noted_with_its_epoch_and_the_others_go_on() -> None:
    """Two rows are so large that models trained on them overflow, after some epochs."""
    x, y = data()
    x[5], x[6] = 300.0, 600.0
    targets = y.double()[:, None]
    torch.manual_seed(0)
    net = nn.Linear(FEATURES, 1).double().eval()
    problem = Problem(net, make_loss("mse"))
    recipe = Recipe(optimizer="sgd", lr=0.05, batch_size=16, epochs=60)
    tame = torch.cat([torch.arange(5), torch.arange(10, ROWS)])
    chosen = [
        torch.cat([tame[:30], torch.tensor([5])]), tame[:30],
        torch.cat([tame[9:37], torch.tensor([6])]), tame[9:37],
    ]  # fmt: skip
    plan = plan_of(recipe)
    training = Training(problem, TensorRows(x, targets), chosen, plan, problem.theta)
    for _ in training.epochs():
        pass
    assert set(training.diverged) == {0, 2}
    for model, error in training.diverged.items():
        assert error.epoch == _first_epoch_without_a_loss(recipe, net, x, targets, chosen[model])
        assert error.epoch > 1
    for model in (1, 3):
        alone = Training(problem, TensorRows(x, targets), [chosen[model]], plan, problem.theta)
        for _ in alone.epochs():
            pass
        torch.testing.assert_close(
            training.state.theta[model], alone.state.theta[0], rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize(
    "net", [nn.Linear(FEATURES, 3), nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh())]
)
def test_a_training_that_ends_far_above_its_start_has_diverged_though_it_is_finite(
    net: nn.Module,
) -> None:
    x, y = data()
    net = nn.Sequential(net, nn.Linear(3, 3)).double().eval()
    problem = Problem(net, make_loss("cross_entropy"))
    recipe = Recipe(optimizer="sgd", lr=1e5, batch_size=16, epochs=3)
    training = Training(problem, TensorRows(x, y), subsets(2, 40), plan_of(recipe), problem.theta)
    with pytest.raises(TrainingDiverged, match=r"first batch rose from \d.* by the end of epoch 3"):
        for _ in training.epochs():
            pass
    assert bool(torch.isfinite(training.state.theta).all())


def test_weights_that_grow_from_zero_while_the_loss_falls_have_not_diverged() -> None:
    x, y = data()
    net = nn.Linear(FEATURES, 3).double().eval()
    problem = Problem(net, make_loss("cross_entropy"))
    recipe = Recipe(optimizer="sgd", lr=0.5, batch_size=16, epochs=20)
    training = Training(
        problem, TensorRows(x, y), subsets(2, 40), plan_of(recipe), torch.zeros_like(problem.theta)
    )
    losses = list(training.epochs())
    assert not training.diverged
    assert bool((losses[-1] < losses[0]).all())


class Narrow(nn.Module):
    """Mean and log-variance, of which the second begins at -3."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) - torch.tensor([0.0, 3.0], dtype=x.dtype)


def test_a_loss_below_zero_that_falls_has_not_diverged() -> None:
    x, _ = data()
    problem = Problem(Narrow().double().eval(), make_loss("gaussian_nll"))
    recipe = Recipe(optimizer="sgd", lr=0.01, batch_size=16, epochs=3)
    rows, start = TensorRows(x, x[:, 0] / 100), torch.zeros_like(problem.theta)
    training = Training(problem, rows, subsets(2, 40), plan_of(recipe), start)
    losses = list(training.epochs())
    assert bool((losses[-1] < losses[0]).all())
    assert bool((losses[0] < 0).all())
    assert not training.diverged


def _first_epoch_without_a_loss(
    recipe: Recipe, net: nn.Linear, x: Tensor, y: Tensor, rows: Tensor
) -> int:
    weight, bias = (each.detach().clone().requires_grad_() for each in net.parameters())
    for epoch in range(recipe.epochs):
        generator = torch.Generator().manual_seed(epoch)
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(16):
            loss = nn.functional.mse_loss(x[batch] @ weight.T + bias, y[batch])
            if not bool(torch.isfinite(loss)):
                return epoch + 1
            for each, step in zip(
                (weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True
            ):
                each.data -= recipe.lr * step
    return 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lbfgs"])
def test_it_asks_whether_to_go_on_before_each_batch(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a cancelled training ends with the batch at hand, however long an epoch takes."""
    course: list[str] = []
    gradient = StackedGradient.__call__

    def noted(self: StackedGradient, *given: Any) -> tuple[Tensor, Tensor]:
        course.append("batch")
        return gradient(self, *given)

    def asked(*_: object) -> None:
        course.append("asked")
        if course.count("asked") == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(StackedGradient, "__call__", noted)
    size = None if optimizer == "lbfgs" else 8
    recipe = Recipe(optimizer=optimizer, lr=0.01, batch_size=size, epochs=100)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, subsets(3, 27), progress=asked)
    assert "batch batch" not in " ".join(course)
    assert course[-1] == "asked"
