"""A bank of retrained weights: filled, found again, listed, deleted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from service.local.background import Running
from service.storage.layout import bank_folder, namespace_prefixes
from service.storage.objects import Objects
from upweight import Client
from upweight.errors import ComputationFailed, InvalidRequest, NotFound
from upweight.schema import Recipe
from workers.engine import Problem, TensorRows, make_loss
from workers.retraining.bank import Bank
from workers.retraining.inputs import TrainingInputs

SUBSETS = [[0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5], [3, 1], [0, 2, 4, 6, 8, 10]]
RECIPE = Recipe(optimizer="sgd", lr=0.1, batch_size=4, epochs=5)


def inputs(identity: str, recipe: Recipe = RECIPE, huge: int | None = None) -> TrainingInputs:
    """`huge`: a row on which no training ends in numbers."""
    torch.manual_seed(0)
    x = torch.randn(12, 3, dtype=torch.float64)
    if huge is not None:
        x[huge] *= 1e3
    problem = Problem(nn.Linear(3, 1).double().eval(), make_loss("mse"))
    named = cast(Any, SimpleNamespace(id="id", name="net", version=1))
    return TrainingInputs(
        problem, TensorRows(x, x.sum(1, keepdim=True)), problem.theta, None, recipe, 0, named, named,
        {}, 1 << 28, identity,
    )  # fmt: skip


def alone(rows: list[int]) -> Tensor:
    """A plain loop over the rows in ascending order."""
    of = inputs("")
    batch = of.rows.take(torch.arange(12))
    net = nn.Linear(3, 1).double()
    with torch.no_grad():
        net.weight.copy_(of.problem.theta[:3][None])
        net.bias.copy_(of.problem.theta[3:])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    chosen = torch.tensor(sorted(rows))
    for epoch in range(5):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))
        for each in chosen[order].split(4):
            optimiser.zero_grad()
            nn.functional.mse_loss(
                net(batch.inputs[0][each]), cast(Tensor, batch.targets)[each]
            ).backward()
            optimiser.step()
    return torch.cat([each.detach().reshape(-1) for each in net.parameters()])


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(Objects(str(tmp_path)), "default", inputs("a" * 64))


def test_each_subset_has_the_weights_of_a_plain_loop(bank: Bank) -> None:
    found = dict(bank.weights(SUBSETS))
    assert sorted(found) == [0, 1, 2, 3]
    for index, theta in found.items():
        assert torch.allclose(theta, alone(SUBSETS[index]), rtol=1e-10, atol=1e-12)


def test_what_is_there_is_found_and_not_trained_again(bank: Bank) -> None:
    first = dict(bank.weights(SUBSETS[:2]))
    stages: list[int] = []
    again = Bank(
        bank.objects,
        "default",
        inputs("a" * 64),
        progress=lambda _s, done, _t, _u: stages.append(done),
    )
    found = dict(again.weights([list(reversed(SUBSETS[0])), SUBSETS[1]]))
    assert stages == []
    assert all(torch.equal(found[index], first[index]) for index in first)
    more = dict(again.weights(SUBSETS))
    assert stages
    assert torch.equal(more[0], first[0])


def test_what_was_done_before_a_failure_is_kept(bank: Bank) -> None:
    """Of sizes apart each is a group of its own; the second is not stored."""
    calls: list[int] = []

    def confirm() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt

    broken = Bank(bank.objects, "default", bank.inputs, confirm=confirm)
    with pytest.raises(KeyboardInterrupt):
        dict(broken.weights(SUBSETS))
    left = [m.path for m in bank.objects.walk(bank_folder("default", bank.id))]
    assert len([path for path in left if path.endswith(".safetensors")]) == 3


def test_an_empty_subset_and_rows_that_are_not_there_are_refused(bank: Bank) -> None:
    with pytest.raises(InvalidRequest, match="subset 1 has no row to train on"):
        dict(bank.weights([[1], []]))
    with pytest.raises(InvalidRequest, match="there are 0 to 11"):
        dict(bank.weights([[12]]))


def test_a_subset_that_diverges_is_named(tmp_path: Path) -> None:
    recipe = Recipe(optimizer="sgd", lr=1e5, epochs=300)
    bank = Bank(Objects(str(tmp_path)), "default", inputs("b" * 64, recipe))
    with pytest.raises(ComputationFailed, match="subset 0: the training diverged"):
        dict(bank.weights([[0, 1, 2]]))


def test_of_models_that_train_together_those_that_diverge_are_named_and_the_others_kept(
    tmp_path: Path,
) -> None:
    recipe = Recipe(optimizer="sgd", lr=0.1, batch_size=4, epochs=60)
    bank = Bank(Objects(str(tmp_path)), "default", inputs("d" * 64, recipe, huge=11))
    subsets = [[0, 1, 2, 3, 11], [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 11], [4, 5, 6, 7, 8]]
    words = (
        r"subset [02]: the training diverged: NaN or infinity in epoch \d+, .* So did subset [02] in epoch \d+"
        r"\. The 2 others that trained with them are kept"
    )
    with pytest.raises(ComputationFailed, match=words):
        dict(bank.weights(subsets))
    assert bank.has(subsets) == [False, True, False, True]
    calm = Bank(Objects(str(tmp_path / "calm")), "default", inputs("d" * 64, recipe, huge=11))
    kept, alone = dict(bank.weights(subsets[1::2])), dict(calm.weights(subsets[1:2]))
    assert torch.allclose(kept[0], alone[0], rtol=1e-12, atol=1e-14)


def test_banks_are_listed_counted_and_deleted(stack: Running, stored: Objects) -> None:
    bank = Bank(stored, "default", inputs("c" * 64))
    dict(bank.weights(SUBSETS))
    folder = bank_folder("default", bank.id)
    assert any(folder.startswith(prefix) for prefix in namespace_prefixes("default"))
    with Client(stack.url) as client:
        (found,) = [each for each in client.banks.list() if each.id == bank.id]
        assert (found.subsets, found.parameters, found.recipe) == (4, 4, RECIPE)
        assert found.size_bytes == sum(meta.size for meta in stored.walk(folder))
        client.banks.delete(found)
        assert bank.id not in {each.id for each in client.banks.list()}
        with pytest.raises(NotFound, match="there is no bank"):
            client.banks.delete(bank.id)
