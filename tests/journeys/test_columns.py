"""Columns meet the model's inputs by name, whatever order a dataset has them in; exact values in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import Client, InfluenceResult, errors

RANDOM = np.random.default_rng(0)
PRICE, VOLUME = RANDOM.normal(size=(2, 12, 3))
LABELS = RANDOM.integers(0, 2, 12)
TARGETS, WEIGHTS = RANDOM.normal(size=12), RANDOM.random(12)
TEST = slice(0, 4)
DAMPING = 0.5


class Market(nn.Module):
    """Two inputs of one shape that are not to be confused."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, price: Tensor, volume: Tensor) -> Tensor:
        return self.a(price) + torch.tanh(self.b(volume))


class Unnamed(Market):
    """The same without names."""

    def forward(self, *both: Tensor) -> Tensor:
        return self.a(both[0]) + torch.tanh(self.b(both[1]))


class Weighted(nn.Module):
    """Its own loss, of a target and a weight that are not to be confused."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 1)

    def forward(self, x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return weight * (self.a(x)[:, 0] - target) ** 2


class Joined(nn.Module):
    """A model of several inputs as the formula takes it: of one, which is cut into them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x[:, :3], x[:, 3:])


def made(kind: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind().double()


def exact(market: nn.Module) -> np.ndarray[Any, Any]:
    x, y = torch.from_numpy(np.hstack([PRICE, VOLUME])), torch.from_numpy(LABELS)
    formula = Formula(Joined(market), F.cross_entropy, x, y, DAMPING)
    return formula.up(formula.factors(x[TEST], y[TEST]), x, y).numpy()


def registered(online: Client, name: str, module: nn.Module, *rows: Any, loss: str) -> str:
    example = tuple(torch.from_numpy(each[:2]) for each in rows)
    return online.models.register(name, module, example=example, loss=loss).id


def influences(online: Client, *about: Any, **how: Any) -> InfluenceResult:
    return online.compute_influences(
        *about, hessian_regularization=DAMPING, precision="float64", **how
    )


@pytest.fixture(scope="module")
def market(online: Client) -> str:
    return registered(online, "market", made(Market), PRICE, VOLUME, loss="cross_entropy")


def test_datasets_are_matched_with_the_models_inputs_by_name_whatever_their_order(
    online: Client, market: str, fresh_name: str
) -> None:
    train = online.datasets.register(fresh_name, volume=VOLUME, price=PRICE, y=LABELS)
    test = online.datasets.register(
        f"{fresh_name}-test", price=PRICE[TEST], volume=VOLUME[TEST], y=LABELS[TEST]
    )
    result = influences(online, market, train, test)
    np.testing.assert_allclose(result.numpy(), exact(made(Market)), rtol=1e-9, atol=1e-12)
    assert [match.how for match in result.job.matched] == ["by name", "by name"]
    assert {tuple(match.inputs) for match in result.job.matched} == {("price", "volume")}


def test_a_perturbed_input_is_found_by_its_name(
    online: Client, market: str, fresh_name: str
) -> None:
    train = online.datasets.register(fresh_name, volume=VOLUME, price=PRICE, y=LABELS)
    test = {"dataset": train, "rows": "0:4"}
    result = influences(
        online, market, train, test, influence_type="perturbation", perturb_input="volume"
    )
    x, y = torch.from_numpy(np.hstack([PRICE, VOLUME])), torch.from_numpy(LABELS)
    formula = Formula(Joined(made(Market)), F.cross_entropy, x, y, DAMPING)
    wanted = formula.perturbation(formula.factors(x[TEST], y[TEST]), x, y)[..., 3:]
    np.testing.assert_allclose(result.numpy(), wanted.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("names", [("price", "size"), ("a", "b")])
def test_names_that_disagree_are_refused_with_both_lists(
    online: Client, market: str, fresh_name: str, names: tuple[str, str]
) -> None:
    arrays = dict(zip(names, (PRICE, VOLUME), strict=True))
    data = online.datasets.register(fresh_name, {**arrays, "y": LABELS})
    with pytest.raises(errors.InvalidRequest) as caught:
        influences(online, market, data, data)
    assert caught.value.errors[0].pointer == "/train/dataset"
    for name in ("price", "volume", *names):
        assert repr(name) in caught.value.detail


def test_a_job_can_say_which_column_an_input_takes(
    online: Client, market: str, fresh_name: str
) -> None:
    data = online.datasets.register(fresh_name, size=VOLUME, price=PRICE, y=LABELS)
    result = influences(online, market, data, data, test_rows="0:4", columns={"volume": "size"})
    np.testing.assert_allclose(result.numpy(), exact(made(Market)), rtol=1e-9, atol=1e-12)
    assert result.job.matched[0].how == "as 'columns' says"
    swapped = influences(
        online, market, data, data, test_rows="0:4", columns={"volume": "price", "price": "size"}
    )
    assert not np.allclose(swapped.numpy(), result.numpy())
    for columns, words in (
        ({"volume": "sise"}, r"no dataset of this job has a column 'sise'"),
        ({"vol": "size"}, r"has the inputs 'price', 'volume', and none 'vol'"),
    ):
        with pytest.raises(errors.InvalidRequest, match=words):
            influences(online, market, data, data, columns=columns)


def test_factors_are_not_taken_for_columns_in_another_order(
    online: Client, market: str, fresh_name: str
) -> None:
    data = online.datasets.register(fresh_name, size=VOLUME, price=PRICE, y=LABELS)
    earlier = influences(
        online, market, data, data, columns={"volume": "size"}, keep={"factors": True}
    )
    with pytest.raises(errors.InvalidRequest, match="in another order"):
        influences(
            online, market, data, data, factors=earlier,
            columns={"volume": "price", "price": "size"},
        )  # fmt: skip


def test_one_column_goes_to_the_one_input_whatever_their_names(
    online: Client, fresh_name: str
) -> None:
    net = made(lambda: nn.Linear(3, 2))
    model = registered(online, fresh_name, net, PRICE, loss="cross_entropy")
    train = online.datasets.register(fresh_name, pixels=PRICE, y=LABELS)
    result = influences(online, model, train, train)
    x, y = torch.from_numpy(PRICE), torch.from_numpy(LABELS)
    formula = Formula(net, F.cross_entropy, x, y, DAMPING)
    wanted = formula.up(formula.factors(x, y), x, y).numpy()
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert result.job.matched[0].how == "by place: the model has one input"


def test_where_the_model_has_no_names_the_test_set_is_matched_with_the_training_set(
    online: Client, fresh_name: str
) -> None:
    model = registered(online, fresh_name, made(Unnamed), PRICE, VOLUME, loss="cross_entropy")
    train = online.datasets.register(fresh_name, first=PRICE, second=VOLUME, y=LABELS)
    test = online.datasets.register(
        f"{fresh_name}-test", second=VOLUME[TEST], first=PRICE[TEST], y=LABELS[TEST]
    )
    result = influences(online, model, train, test)
    np.testing.assert_allclose(result.numpy(), exact(made(Market)), rtol=1e-9, atol=1e-12)
    assert "by place: the model's inputs have no names" in result.job.matched[0].how
    other = online.datasets.register(f"{fresh_name}-other", a=PRICE, b=VOLUME, y=LABELS)
    with pytest.raises(errors.InvalidRequest, match=r"'a', 'b', those of .* 'first', 'second'"):
        influences(online, model, train, other)


def test_targets_of_a_program_are_matched_by_name_too(online: Client, fresh_name: str) -> None:
    model = registered(online, fresh_name, made(Weighted), PRICE, TARGETS, WEIGHTS, loss="program")
    arrays = {"weight": WEIGHTS, "target": TARGETS, "x": PRICE}
    train = online.datasets.register(fresh_name, arrays, inputs="x", targets=["weight", "target"])
    mixed = online.datasets.register(
        f"{fresh_name}-test", arrays, inputs=["weight", "x"], targets=["target"]
    )
    result = influences(online, model, train, mixed, test_rows="0:4")
    packed = torch.from_numpy(np.column_stack([TARGETS, WEIGHTS]))
    x = torch.from_numpy(PRICE)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return (y[:, 1] * (outputs[:, 0] - y[:, 0]) ** 2).mean()

    formula = Formula(made(Weighted).a, loss, x, packed, DAMPING)
    wanted = formula.up(formula.factors(x[TEST], packed[TEST]), x, packed).numpy()
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-9, atol=1e-12)
    wrong = online.datasets.register(
        f"{fresh_name}-wrong", {"x": PRICE, "y": TARGETS, "w": WEIGHTS}, targets=["y", "w"]
    )
    with pytest.raises(errors.InvalidRequest, match=r"'x', 'target', 'weight'.*'x', 'y', 'w'"):
        influences(online, model, wrong, wrong)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame(PRICE, columns=["a", "b", "c"]).assign(label=LABELS)


@pytest.fixture(scope="module")
def of_table(online: Client) -> str:
    net = made(lambda: nn.Linear(3, 2))
    return registered(online, "of-table", net, PRICE, loss="cross_entropy")


@pytest.mark.parametrize("preview", [None, {"kind": "image", "column": "x", "shape": [1, 3]}])
def test_features_of_tables_are_matched_by_name(
    online: Client, of_table: str, table: pd.DataFrame, fresh_name: str, preview: Any
) -> None:
    train = online.datasets.register(fresh_name, table, targets="label", preview=preview)
    turned = table[["c", "label", "b", "a"]].head(4)
    test = online.datasets.register(f"{fresh_name}-test", turned, targets="label", preview=preview)
    result = influences(online, of_table, train, test)
    x, y = torch.from_numpy(PRICE), torch.from_numpy(LABELS)
    formula = Formula(made(lambda: nn.Linear(3, 2)), F.cross_entropy, x, y, DAMPING)
    wanted = formula.up(formula.factors(x[TEST], y[TEST]), x, y).numpy()
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert result.job.matched[1].features == {"x": ["a", "b", "c"]}
    assert "features in the order of" in result.job.matched[1].how


def test_features_that_disagree_are_refused_with_both_lists(
    online: Client, of_table: str, table: pd.DataFrame, fresh_name: str
) -> None:
    train = online.datasets.register(fresh_name, table, targets="label")
    renamed = table.rename(columns={"c": "d"})
    test = online.datasets.register(f"{fresh_name}-test", renamed, targets="label")
    words = r"'a', 'b', 'd', those of .* 'a', 'b', 'c': only .* has 'd' and only .* has 'c'"
    with pytest.raises(errors.InvalidRequest, match=words) as caught:
        influences(online, of_table, train, test)
    assert caught.value.errors[0].pointer == "/test/dataset"
    with pytest.raises(errors.InvalidRequest, match=words):
        influences(online, of_table, train, train, hessian_on=test)


def test_labels_that_mean_other_classes_are_refused(
    online: Client, of_table: str, table: pd.DataFrame, fresh_name: str
) -> None:
    words = table.assign(label=pd.Categorical(np.where(LABELS, "dog", "cat")))
    train = online.datasets.register(fresh_name, words, targets="label")
    same = online.datasets.register(
        f"{fresh_name}-same", words.astype({"label": str}), targets="label",
        class_names=["cat", "dog"],
    )  # fmt: skip
    influences(online, of_table, train, same)
    turned = online.datasets.register(
        f"{fresh_name}-test", words, targets="label", class_names=["dog", "cat"]
    )
    with pytest.raises(errors.InvalidRequest, match=r"'dog', 'cat', those of .* 'cat', 'dog'"):
        influences(online, of_table, train, turned)
