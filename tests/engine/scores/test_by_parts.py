"""Scores by layer and by token against plain autograd in float64, parameter by parameter and position by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.engine import decoder
from tests.engine.exact import relative
from workers.engine import (
    BadParameter,
    LayerGroups,
    Problem,
    TensorRows,
    make_loss,
    up,
    up_by_layer,
    up_by_token,
)
from workers.engine.model.losses.weighted import Weighted
from workers.engine.scores import up as module_of_up

ROWS, FACTORS = 5, 3


def problem(dtype: torch.dtype = torch.float64, **loss: object) -> Problem:
    loss = {"class_axis": -1, **loss}
    return Problem(decoder.decoder(), make_loss("cross_entropy", **loss), dtype=dtype)


def factors(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    found = torch.randn(FACTORS, size, generator=torch.Generator().manual_seed(2)).double()
    return found.to(dtype)


def whole(blocks: object) -> Tensor:
    return torch.cat([each for _, each in blocks], 1)  # type: ignore[attr-defined]


def test_token_scores_are_those_of_each_positions_loss() -> None:
    tokens, targets = decoder.texts(ROWS, padded=2)
    given = problem()
    f = factors(given.size)
    found = whole(up_by_token(given, f, TensorRows(tokens, targets), batch_size=2))
    exact = decoder.position_gradients(decoder.decoder(), tokens, targets)
    assert found.shape == (FACTORS, ROWS, tokens.shape[1])
    assert relative(found, torch.einsum("mp,btp->mbt", f, exact)) < 1e-12
    assert not found[:, targets == decoder.IGNORED].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layer_and_token_scores_add_up_to_the_rows(dtype: torch.dtype) -> None:
    given = problem(dtype, label_smoothing=0.1, weight=tuple(1.0 + i for i in range(7)))
    f, rows = factors(given.size, dtype), TensorRows(*decoder.texts(ROWS))
    expected = whole(up(given, f, rows))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for split in (up_by_layer, up_by_token):
        assert relative(whole(split(given, f, rows)).sum(2), expected) < tolerance


def test_token_scores_have_the_weights_of_rows() -> None:
    tokens, targets = decoder.texts(ROWS)
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0]).double()
    given = problem()
    weighted = given.with_loss(Weighted(given.loss))
    f = factors(given.size)
    found = whole(up_by_token(weighted, f, TensorRows(tokens, (targets, weights))))
    plain = whole(up_by_token(given, f, TensorRows(tokens, targets)))
    assert relative(found, plain * weights[:, None]) < 1e-12


@pytest.mark.parametrize("by_layers", [False, True])
def test_layer_scores_are_inner_products_over_a_modules_parameters(
    by_layers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_layers:  # as of long gradients
        monkeypatch.setattr(module_of_up, "LONG_GRADIENT", 1)
        monkeypatch.setattr(module_of_up, "MANY_GRADIENTS", 1)
    tokens, targets = decoder.texts(ROWS)
    given, module = problem(), decoder.decoder()
    f = factors(given.size)
    assert LayerGroups(given.layout).names == ["embedding", "mixed", "inner", "norm", "head"]
    found = whole(up_by_layer(given, f, TensorRows(tokens, targets), batch_size=3))
    gradients = decoder.position_gradients(module, tokens, targets).sum(1)
    sizes = [sum(p.numel() for p in part.parameters()) for part in module.children()]
    pieces = zip(f.split(sizes, 1), gradients.split(sizes, 1), strict=True)
    exact = torch.stack([left @ right.T for left, right in pieces], 2)
    assert relative(found, exact) < 1e-12


def test_a_tied_weight_is_one_layer() -> None:
    class Tied(decoder.Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

    torch.manual_seed(0)
    given = Problem(Tied().double().eval(), make_loss("cross_entropy", class_axis=-1))
    f, rows = factors(given.size), TensorRows(*decoder.texts(ROWS))
    assert LayerGroups(given.layout).names == ["embedding", "mixed", "inner", "norm"]
    assert relative(whole(up_by_layer(given, f, rows)).sum(2), whole(up(given, f, rows))) < 1e-12
    assert relative(whole(up_by_token(given, f, rows)).sum(2), whole(up(given, f, rows))) < 1e-12


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_rows_without_positions_have_no_token_scores(loss: str) -> None:
    net = nn.Linear(4, 3).double().eval()
    targets = torch.tensor([0, 2]) if loss == "cross_entropy" else torch.zeros(2, 3).double()
    given = Problem(net, make_loss(loss))
    rows = TensorRows(torch.ones(2, 4).double(), targets)
    with pytest.raises(BadParameter, match="positions"):
        list(up_by_token(given, factors(given.size), rows))
