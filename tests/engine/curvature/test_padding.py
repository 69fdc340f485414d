"""Texts that are padded further give the same curvatures, gradients and scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine import decoder
from tests.engine.curvature import kronecker_by_hand as by_hand
from tests.engine.exact import relative
from workers.engine import Over, Problem, TensorRows, make_curvature, make_loss, row_gradients, up

ROWS, DAMPING = 4, 0.1


def over(padded: int, positions: str = "mean", **options: Any) -> Over:
    tokens, targets = decoder.texts(ROWS, padded=padded)
    loss = make_loss("cross_entropy", class_axis=-1, reduction=positions)
    return Over(
        Problem(decoder.decoder(), loss),
        TensorRows(tokens, targets),
        seed=3,
        batch_size=4,
        **options,
    )


def solved(padded: int, kind: str, structure: str, positions: str) -> tuple[Tensor, Tensor]:
    """C, and the scores of the first two rows with all."""
    given = over(padded, positions)
    dense = make_curvature(given, kind, structure).dense()
    right = torch.cat([each for _, each in row_gradients(given.problem, given.rows)])[:2]
    damped = dense + DAMPING * torch.eye(len(dense), dtype=dense.dtype)
    factors = torch.linalg.solve(damped, right.T).T
    return dense, torch.cat([each for _, each in up(given.problem, factors, given.rows)], 1)


@pytest.mark.parametrize(
    ("kind", "structure"),
    [
        ("hessian", "full"),
        ("gauss_newton", "full"),
        ("gauss_newton", "ekfac"),
        ("fisher", "full"),
        ("fisher", "kfac"),
        ("fisher", "diagonal"),
        *(("empirical_fisher", each) for each in ("kfac", "ekfac", "layers")),
    ],
)
def test_padding_changes_no_number(kind: str, structure: str) -> None:
    positions = "sum" if structure == "kfac" else "mean"
    dense, scores = solved(0, kind, structure, positions)
    assert float(dense.abs().max()) > 1e-3
    other, met = solved(4, kind, structure, positions)
    assert relative(other, dense) < 1e-8
    assert relative(met, scores) < 1e-8


@pytest.mark.parametrize("structure", ["kfac", "ekfac"])
def test_a_layers_inputs_are_those_of_the_text_alone(structure: str) -> None:
    """The covariances by hand, of each row without its padding."""
    given = over(3)
    module, (tokens, targets) = decoder.decoder(), decoder.texts(ROWS, padded=3)
    found = make_curvature(given, "empirical_fisher", structure).dense()
    places = {each.name: each for each in given.problem.layout}
    weight, bias = places["inner.weight"], places["inner.bias"]
    numbers = torch.arange(weight.offset, weight.offset + weight.size).view(5, -1)
    column = torch.arange(bias.offset, bias.offset + bias.size).unsqueeze(1)
    place = torch.cat([numbers, column], 1).flatten()
    rows = []
    for x, y in zip(tokens, targets, strict=True):
        labels = int((y != decoder.IGNORED).sum())

        def mean_loss(scores: Tensor, goal: Tensor = y[:labels]) -> Tensor:
            return nn.functional.cross_entropy(scores[0], goal)

        rows.append(by_hand.tokens_of(module, module.inner, x[None, :labels], mean_loss))
    by = by_hand.kfac if structure == "kfac" else by_hand.ekfac
    assert relative(found[place][:, place], by(rows)) < 1e-10


def test_a_prompt_without_labels_is_no_padding() -> None:
    """What comes before the answer is looked back at, so that its tokens count in the layers below."""
    tokens, targets = decoder.texts(ROWS)
    targets[:, :1] = decoder.IGNORED
    loss = make_loss("cross_entropy", class_axis=-1)
    problem = Problem(decoder.decoder(), loss)
    found = make_curvature(
        Over(problem, TensorRows(tokens, targets), batch_size=4), "empirical_fisher", "kfac"
    )
    sums = found.partial_sums()
    names = [block.names[0] for block in found.collector.layout.blocks]
    labels, lengths = (targets != decoder.IGNORED).sum(), (tokens[:, 1:] != decoder.PAD).sum()
    assert sums[f"{names.index('head.weight')}.tokens"] == labels
    assert sums[f"{names.index('embedding.weight')}.tokens"] == lengths
