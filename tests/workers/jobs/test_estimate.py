"""What a job is thought to take: each kind and structure has its own price."""

from __future__ import annotations

from typing import Any

import pytest

from service.jobs import estimate as before
from upweight.schema import InfluencesJob
from workers.engine.inversion import indefinite
from workers.engine.model import batching
from workers.jobs.estimate import Estimate, Size, Speed, priced

P, ROWS, TESTS = 100_000, 5_000, 20
SIZE = Size(P, (64, 4096), ROWS, ROWS)
SPEED = Speed(gradient=1e-4, rate=1e11)


def estimate(kind: str, structure: str = "full", columns: int = 1, **fields: Any) -> Estimate:
    request = InfluencesJob.model_validate(
        {
            "kind": "influences", "model": "m", "train": {"dataset": "d"}, "test": {"dataset": "d"},
            "hessian_regularization": 0.1,
            "curvature": {"kind": kind, "structure": structure}, "inversion": {"method": "direct"}, **fields,
        }
    )  # fmt: skip
    size = Size(P, SIZE.modules, ROWS, ROWS, columns)
    return priced(request, size, SPEED, TESTS, TESTS)


def test_what_is_told_before_a_job_counts_with_the_engines_own_numbers() -> None:
    assert before.FEWEST_ROWS == batching.FEWEST_ROWS
    assert before.BEYOND == indefinite.BEYOND


CG = {"inversion": {"method": "cg"}}


def test_a_product_without_the_models_second_derivative_takes_two_thirds() -> None:
    hessian, others = (
        estimate(kind, **CG).right_hand_side - SPEED.gradient
        for kind in ("hessian", "gauss_newton")
    )
    assert others == pytest.approx(hessian * 2 / 3, rel=0.05)


def test_identity_has_no_fit_and_ekfac_twice_that_of_kfac() -> None:
    fits = {
        each: estimate("empirical_fisher", each).fit
        for each in ("identity", "diagonal", "kfac", "ekfac")
    }
    assert fits["identity"] == 0.0
    assert fits["ekfac"] == pytest.approx(2 * fits["kfac"])
    assert 0.0 < fits["diagonal"] < fits["kfac"]
    assert fits["ekfac"] < estimate("empirical_fisher").fit  # which builds all of it


def test_exact_blocks_cost_their_entries() -> None:
    blocks = 2.0 * ROWS * (64**2 + 4096**2) / SPEED.rate
    without = estimate("empirical_fisher", "diagonal").fit
    assert estimate("empirical_fisher", "layers").fit == pytest.approx(without + blocks)


def test_drawn_labels_take_a_pass_more() -> None:
    more = estimate("fisher", "kfac").fit - estimate("empirical_fisher", "kfac").fit
    assert more == pytest.approx(ROWS * SPEED.gradient)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "diagonal", "layers"])
def test_a_gauss_newton_matrix_takes_each_of_its_columns(structure: str) -> None:
    one, ten = (estimate("gauss_newton", structure, columns=count).fit for count in (1, 10))
    assert ten == pytest.approx(10 * one)


def test_a_built_matrix_costs_its_columns_up_to_what_the_hessian_does() -> None:
    fits = [estimate("gauss_newton", columns=count).fit for count in (1, 2, 60)]
    assert fits[1] == pytest.approx(2 * fits[0])
    assert fits[2] == pytest.approx(estimate("hessian").fit)


@pytest.mark.parametrize("structure", ["ekfac", "diagonal"])
def test_iterations_on_a_closed_form_take_no_pass(structure: str) -> None:
    direct, iterated = (estimate("fisher", structure, **given) for given in ({}, CG))
    assert iterated.fit == direct.fit
    assert iterated.right_hand_side < 2 * SPEED.gradient


def test_a_list_shares_the_pass_over_the_training_rows() -> None:
    one = estimate("fisher", "ekfac")
    eight = one.with_dampings(8)
    assert eight.fit == one.fit
    assert eight.train_row == pytest.approx(SPEED.gradient + 8 * one.contraction)
