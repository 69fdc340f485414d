"""How alike neighbouring λ's rank the training rows: on a sample that the cut of a job does not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from service.storage.cuts import Cut
from workers.jobs.neighbours import Sample, correlated
from workers.jobs.plan import Plan

TESTS, TRAINS = 150, 9000


def plan(trailing: tuple[int, ...] = ()) -> Plan:
    return Plan(
        spread=False, budget_bytes=1 << 20, rhs=Cut(TESTS, TESTS), test=Cut(TESTS, TESTS),
        train=Cut(TRAINS, TRAINS), trailing=trailing,
    )  # fmt: skip


@pytest.mark.parametrize("trailing", [(), (7,)])
def test_any_cut_gives_the_same_sample(trailing: tuple[int, ...]) -> None:
    whole = torch.arange(2 * TESTS * TRAINS * (7 if trailing else 1), dtype=torch.float64)
    whole = whole.view(2, TESTS, TRAINS, *trailing)
    sample = Sample.of(plan(trailing))
    expected = sample.taken(0, 0, whole)
    assert expected.shape[1] <= 64
    assert expected.shape[2] <= 4096
    assert expected[0].numel() <= 64 * (1 << 14)
    cut = [
        torch.cat(
            [
                sample.taken(test, train, whole[:, test : test + 40, train : train + 1234])
                for train in range(0, TRAINS, 1234)
            ],
            2,
        )
        for test in range(0, TESTS, 40)
    ]
    assert torch.equal(torch.cat(cut, 1), expected)


def test_what_is_left_out_is_told() -> None:
    assert Sample.of(plan()).in_words(plan()) == (
        "Spearman's coefficient of a test row's scores, the mean over 50 of 150 test rows, with 3,000 of 9,000 "
        "training rows, evenly spaced"
    )
    small = replace(plan(), test=Cut(3, 3), train=Cut(8, 8))
    assert Sample.of(small).in_words(small).endswith("the mean over all test rows")


def test_equal_scores_share_their_ranks() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (3, 4, 60), generator=generator).double()
    found = correlated([scores[:, :1], scores[:, 1:]], "")["neighbours"]
    for pair in range(2):
        rows = zip(scores[pair], scores[pair + 1], strict=True)
        expected = [stats.spearmanr(first, second).statistic for first, second in rows]
        assert found[pair] == pytest.approx(sum(expected) / 4, rel=1e-12)


def test_rows_without_an_order_are_left_out() -> None:
    flat = torch.zeros(2, 1, 5)
    assert correlated([flat], "")["neighbours"] == [None]
    rising = torch.arange(5.0).expand(2, 1, 5)
    assert correlated([torch.cat([flat, rising], 1)], "")["neighbours"] == [pytest.approx(1.0)]
