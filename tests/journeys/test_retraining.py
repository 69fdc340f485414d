"""A model is trained anew by its recipe, through the service: held against a plain torch loop in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.local.background import Running
from upweight import Client
from upweight.errors import ComputationFailed, InvalidRequest, Rejected
from upweight.schema import ModelRecord

ROWS, TEST = 50, 12
RECIPE = {
    "optimizer": "adamw", "lr": 0.02, "weight_decay": 0.01, "batch_size": 16, "epochs": 8, "seed": 5,
}  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()


def data(count: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 4))
    return {"x": x, "y": (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)}


def plain(
    rows: Tensor, x: Tensor, y: Tensor, weights: Tensor | None = None, recipe: Any = RECIPE
) -> nn.Module:
    """The same by torch's own optimiser."""
    net = network()
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=recipe["lr"], weight_decay=recipe["weight_decay"]
    )
    for epoch in range(recipe["epochs"]):
        generator = torch.Generator().manual_seed(recipe["seed"] * 1_000_003 + epoch)
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(16):
            optimiser.zero_grad()
            losses = nn.functional.cross_entropy(net(x[batch]), y[batch], reduction="none")
            (losses if weights is None else losses * weights[batch]).mean().backward()
            optimiser.step()
    return net


@pytest.fixture(scope="module")
def client(stack: Running) -> Any:
    with Client(stack.url, progress=False) as made:
        yield made


class Subject:
    """A model that was trained on all rows, with its data."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name
        train, test = data(ROWS, 0), data(TEST, 1)
        self.x, self.y = torch.tensor(train["x"]), torch.tensor(train["y"])
        self.test = torch.tensor(test["x"]), torch.tensor(test["y"])
        client.datasets.register(f"{name}-train", train, targets="y")
        client.datasets.register(f"{name}-test", test, targets="y")
        trained = plain(torch.arange(ROWS), self.x, self.y)
        self.model = client.models.register(
            name,
            trained,
            loss="cross_entropy",
            example=self.x[:2],
            recipe=RECIPE,
            initial=network(),
        )

    def weights_of(self, model: ModelRecord) -> Tensor:
        """(p,), as the blob of the model has them."""
        from safetensors.torch import load

        assert model.weights is not None
        named = load(self.client.blobs.get(model.weights))
        return torch.cat([named[each.name].reshape(-1) for each in model.selected])


def flat(net: nn.Module) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in net.parameters()])


@pytest.fixture(scope="module")
def subject(client: Client) -> Subject:
    return Subject(client, "retrained-subject")


def test_the_recipe_on_all_rows_gives_the_model_again(subject: Subject) -> None:
    made = subject.client.retrain(subject.model, f"{subject.name}-train")
    wanted = flat(plain(torch.arange(ROWS), subject.x, subject.y))
    assert (subject.weights_of(made) - wanted).abs().max() < 1e-10
    assert made.name == f"{subject.name}-retrained"
    assert made.training is not None
    assert made.training.parent.id == subject.model.id
    assert made.training.rows == ROWS


def test_rows_are_dropped_weighted_and_relabelled(subject: Subject) -> None:
    weights = torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)
    made = subject.client.retrain(
        subject.model, f"{subject.name}-train", rows="5:45", drop=[7, 20], weights=weights,
        labels={10: 2, 11: 0},
    )  # fmt: skip
    y = subject.y.clone()
    y[10], y[11] = 2, 0
    rows = torch.tensor([row for row in range(5, 45) if row not in (7, 20)])
    wanted = flat(plain(rows, subject.x, y, weights))
    assert (subject.weights_of(made) - wanted).abs().max() < 1e-10


def test_the_new_model_is_measured_beside_its_parent_by_class(subject: Subject) -> None:
    made = subject.client.retrain(
        subject.model, f"{subject.name}-train", rows="0:20", test=f"{subject.name}-test",
        name=f"{subject.name}-small",
    )  # fmt: skip
    assert made.name == f"{subject.name}-small"
    assert made.training is not None
    before, after = made.training.parent_metrics, made.training.metrics
    assert before is not None
    assert after is not None
    x, y = subject.test
    for net, found in (
        (plain(torch.arange(20), subject.x, subject.y), after),
        (plain(torch.arange(ROWS), subject.x, subject.y), before),
    ):
        scores = net(x).detach()
        assert found.loss == pytest.approx(float(nn.functional.cross_entropy(scores, y)), rel=1e-9)
        right = scores.argmax(1) == y
        assert found.accuracy == pytest.approx(float(right.double().mean()))
        for each in found.by_class:
            assert each.rows == int((y == each.label).sum())
            assert each.accuracy == pytest.approx(float(right[y == each.label].double().mean()))


def test_influences_on_a_retrained_model_are_those_at_its_weights(subject: Subject) -> None:
    made = subject.client.retrain(subject.model, f"{subject.name}-train", rows="0:30")
    result = subject.client.compute_influences(
        made, f"{subject.name}-train", f"{subject.name}-test", inversion_method="identity",
        hessian_regularization=1.0,
    )  # fmt: skip
    net = plain(torch.arange(30), subject.x, subject.y)

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        found = []
        for one, label in zip(x, y, strict=True):
            loss = nn.functional.cross_entropy(net(one[None]), label[None])
            each = torch.autograd.grad(loss, list(net.parameters()))
            found.append(torch.cat([g.reshape(-1) for g in each]))
        return torch.stack(found)

    wanted = gradients(*subject.test) @ gradients(subject.x, subject.y).T / ROWS
    found = torch.tensor(result.numpy())
    scale = float((found * wanted).sum() / (wanted * wanted).sum())
    assert (found - scale * wanted).abs().max() <= 1e-8 * found.abs().max()


def test_the_losses_are_told_epoch_by_epoch(subject: Subject) -> None:
    request = {
        "kind": "retrain", "model": subject.model.id, "train": {"dataset": f"{subject.name}-train"},
        "test": {"dataset": f"{subject.name}-test"},
    }  # fmt: skip
    job = subject.client.jobs.wait(subject.client.jobs.create(request))
    assert job.curve is not None
    assert job.curve.epochs == list(range(1, 9))
    assert job.curve.train_loss[-1] < job.curve.train_loss[0]
    assert job.curve.test_epochs == list(range(1, 9))
    result = subject.client.jobs.result(job)
    assert result.info["train_loss"].numpy() == pytest.approx(job.curve.train_loss)
    assert result.report()["training"]["rows"] == ROWS


def test_a_training_that_diverges_says_when_and_keeps_its_losses(subject: Subject) -> None:
    recipe = {"optimizer": "sgd", "lr": 1e3, "epochs": 200, "weight_decay": 1.0}
    with pytest.raises(
        ComputationFailed, match=r"diverged: NaN or infinity in epoch \d+, at step \d+"
    ):
        subject.client.retrain(
            subject.model, f"{subject.name}-train", recipe={**recipe, "start": "warm"}
        )
    (job, *_) = subject.client.jobs.list(limit=1)
    assert job.curve is not None
    assert job.curve.train_loss


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"drop": "0:50"}, "none of the 50 chosen rows is left to train on"),
        ({"rows": "3,3"}, "row 3 is chosen 2 times; choose it once, and give it a weight"),
        ({"drop": [50]}, "there are 50 rows"),
        ({"labels": {4: 3}}, "the label 3 in row 4"),
        ({"weights": [1.0, 2.0]}, "'weights' has 2 entries; it needs one for each of 50 rows"),
        ({"weights": {4: -1.0}}, "must be finite, and 0 or more"),
        (
            {"recipe": {"optimizer": "adam", "lr": 0.1, "epochs": 1, "momentum": 0.9}},
            "'momentum' belongs",
        ),
    ],
)
def test_what_can_not_be_trained_is_refused_in_words(
    subject: Subject, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        subject.client.retrain(subject.model, f"{subject.name}-train", **given)


def test_a_model_without_a_recipe_says_how_to_give_one(subject: Subject) -> None:
    bare = subject.client.models.register(
        f"{subject.name}-bare", network(), loss="cross_entropy", example=subject.x[:2]
    )
    with pytest.raises(InvalidRequest, match="registered without a recipe"):
        subject.client.retrain(bare, f"{subject.name}-train")
    made = subject.client.retrain(bare, f"{subject.name}-train", recipe={**RECIPE, "start": "warm"})
    wanted = flat(plain(torch.arange(ROWS), subject.x, subject.y))
    assert (subject.weights_of(made) - wanted).abs().max() < 1e-10


def test_initial_weights_of_another_model_are_refused(subject: Subject) -> None:
    other = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with pytest.raises(Rejected, match=r"parameter '0.weight' has shape \[6, 4\] in the model"):
        subject.client.models.register(
            f"{subject.name}-other", network(), loss="cross_entropy", example=subject.x[:2],
            recipe=RECIPE, initial=other,
        )  # fmt: skip
    with pytest.raises(InvalidRequest, match="initial=net0"):
        subject.client.models.register(
            f"{subject.name}-none", network(), loss="cross_entropy", example=subject.x[:2],
            recipe=RECIPE,
        )  # fmt: skip


def test_auto_takes_λ_from_the_recipes_steps(subject: Subject) -> None:
    """Of 50 rows in batches of 16 an epoch has 4 steps; the rate falls to its half after 5 of 10 epochs."""
    recipe = {
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "batch_size": 16,
        "epochs": 10, "schedule": {"name": "step", "epochs": 5, "gamma": 0.5}, "start": "warm",
    }  # fmt: skip
    model = subject.client.models.register(
        f"{subject.name}-sgd", network(), loss="cross_entropy", example=subject.x[:2], recipe=recipe
    )
    result = subject.client.self_influences(
        model, f"{subject.name}-train", curvature="gauss_newton", hessian_regularization="auto"
    )
    assert result.job.damping is not None
    assert result.job.damping.rule == "recipe"
    assert result.job.damping.values == pytest.approx([0.02 + 0.1 / (0.075 * 40)])
    assert "K = 40 steps" in result.job.damping.how


def test_a_recipe_of_adam_says_nothing_of_λ(subject: Subject) -> None:
    result = subject.client.self_influences(
        subject.model, f"{subject.name}-train", curvature="gauss_newton",
        hessian_regularization="auto",
    )  # fmt: skip
    assert result.job.damping is not None
    assert result.job.damping.rule == "mean"
    assert "steps of 'adamw' are not those of its rate" in result.job.damping.how
