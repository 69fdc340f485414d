"""λ as a number, as a part of the mean eigenvalue, and worked out: what the record says, against dense algebra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.journeys.subjects import Subject
from upweight import Client
from upweight.errors import ComputationFailed, InvalidRequest

pytestmark = pytest.mark.filterwarnings("ignore::upweight.UntrustedResult")
SPREAD: list[dict[str, Any]] = [{}, {"blocks": {"spread": True, "rhs_rows": 2, "train_rows": 20}}]
everywhere = pytest.mark.parametrize("cut", SPREAD, ids=["one task", "spread"])
# Exact ways, so that an answer says which λ was taken.
METHODS: dict[str, dict[str, Any]] = {
    "direct": {},
    "cg": {"rtol": 1e-12},
    "lissa": {"maxiter": 20_000, "rtol": 1e-12},
    "arnoldi": {"rank_estimate": 1000, "tol": 1e-12},
    "nystroem": {"rank": 1000},
}
methods = pytest.mark.parametrize("method", METHODS)


def hessian(subject: Subject) -> torch.Tensor:
    return subject.formula.damped - subject.damping * torch.eye(subject.size, dtype=torch.float64)


def exact(subject: Subject, damping: float) -> np.ndarray[Any, Any]:
    formula = subject.formula
    damped = hessian(subject) + damping * torch.eye(subject.size, dtype=torch.float64)
    gradients = formula.gradients(subject.x_test, subject.y_test)
    solutions = torch.linalg.solve(damped, gradients.T).T
    found: np.ndarray[Any, Any] = formula.up(solutions, subject.x_train, subject.y_train).numpy()
    return found


def assert_close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], rtol: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


@methods
def test_a_part_of_the_mean_eigenvalue_is_that_part(
    online: Client, words: Subject, method: str
) -> None:
    values = torch.linalg.eigvalsh(hessian(words))
    damping = 60 * float(values.mean())
    found = online.compute_influences(
        *words.names, inversion_method=method, hessian_regularization={"relative": 60}, **METHODS[method],
    )  # fmt: skip
    told = found.job.damping
    assert told is not None
    assert told.rule == "relative"
    assert told.values == pytest.approx([damping], rel=1e-9)
    assert told.mean_eigenvalue == pytest.approx(float(values.mean()), rel=1e-9)
    assert told.share_below == [pytest.approx(float((values.abs() < damping).double().mean()))]
    assert found.info["damping"] == told.model_dump(mode="json")
    assert_close(found.numpy(), exact(words, damping), 1e-7)


@methods
@everywhere
def test_auto_is_the_default_of_the_sdk_and_solves_what_is_not_convex(
    online: Client, words: Subject, method: str, cut: dict[str, Any]
) -> None:
    values = torch.linalg.eigvalsh(hessian(words))
    smallest, mean = float(values[0]), float(values.mean())
    assert smallest < 0
    damping = max(1.1 * -smallest, 0.1 * mean)
    found = online.compute_influences(
        *words.names, inversion_method=method, **METHODS[method], **cut
    )
    assert found.job.request.hessian_regularization == "auto"
    told = found.job.damping
    assert told is not None
    assert told.rule == ("positive" if 1.1 * -smallest > 0.1 * mean else "mean")
    assert told.values == pytest.approx([damping], rel=1e-9)
    assert told.smallest_eigenvalue == pytest.approx(smallest, rel=1e-9)
    assert_close(found.numpy(), exact(words, damping), 1e-6)


def test_a_recipe_of_training_gives_its_own(online: Client, words: Subject) -> None:
    recipe = {"learning_rate": 0.1, "momentum": 0.9, "steps": 1}
    found = online.compute_influences(
        *words.names, inversion_method="direct", hessian_regularization={"auto": recipe}
    )
    told = found.job.damping
    assert told is not None
    assert told.rule == "recipe"
    assert told.values == pytest.approx([(1 - 0.9) / 0.1])
    assert_close(found.numpy(), exact(words, 1.0), 1e-9)


def test_the_service_takes_0_where_nothing_is_said(online: Client, regression: Subject) -> None:
    model, train, test = regression.names
    record = online.jobs.create(
        {
            "kind": "factors", "model": model, "train": {"dataset": train}, "test": {"dataset": test},
            "inversion": {"method": "arnoldi"},
        }
    )  # fmt: skip
    assert record.request.hessian_regularization == 0.0
    assert online.jobs.wait(record).damping is None


def test_a_number_is_recorded_as_before(online: Client, words: Subject) -> None:
    found = online.compute_influence_factors(*words.names, hessian_regularization=0.5)
    assert found.job.damping is None
    assert found.job.request.hessian_regularization == 0.5
    assert "damping" not in found.info


def test_factors_are_taken_with_what_auto_came_to(online: Client, words: Subject) -> None:
    factors = online.compute_influence_factors(*words.names)
    assert factors.job.damping is not None
    (damping,) = factors.job.damping.values
    found = online.compute_influences(words.name, words.train, factors=factors)
    assert found.job.request.hessian_regularization == damping
    assert_close(found.numpy(), exact(words, damping), 1e-9)
    again = online.compute_influences(
        words.name, words.train, factors=factors, hessian_regularization=damping
    )
    np.testing.assert_array_equal(again.numpy(), found.numpy())
    with pytest.raises(InvalidRequest, match="were solved for with λ"):
        online.compute_influences(
            words.name, words.train, factors=factors, hessian_regularization=0.5
        )


@pytest.mark.parametrize(
    ("given", "below", "said"),
    [
        (-1, "", "λ must be at least 0; it is -1"),
        (float("nan"), "", "finite"),
        (float("inf"), "", "finite"),
        ("Auto", "", "'Auto' is no λ; give 0.05"),
        ({"relativ": 1}, "", "'relativ' is nothing that λ has; give 0.05"),
        ({"relative": 0}, "/relative", "more than 0"),
        ({"auto": {"learning_rate": 0.1}}, "/auto/steps", "is missing"),
        ({"auto": {"learning_rate": 0.1, "steps": 0}}, "/auto/steps", "at least 1"),
        ([], "", "is empty"),
        (
            [0.1 * each for each in range(17)],
            "",
            "17 λ's are too many for one job; give at most 16",
        ),
        ([0.1, 0.2, 0.1], "", "0.1 is in the list twice, at 0 and 2"),
        ([0.1, "auto"], "", "'auto' at position 1"),
        ([0.1, -2], "/1", "λ must be at least 0; it is -2"),
    ],
)
def test_what_is_no_lambda_is_refused_by_name(
    online: Client, words: Subject, given: Any, below: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        online.compute_influences(*words.names, hessian_regularization=given)
    (error,) = caught.value.errors
    assert error.pointer == f"/hessian_regularization{below}"
    assert said in error.detail


DAMPINGS = [0.6, 5.0, 1.0]
KEPT = {"matrix": True, "top": 3, "mean": True, "factors": True}


def listed(online: Client, subject: Subject, method: str, **options: Any) -> Any:
    given = {"hessian_regularization": DAMPINGS, "keep": KEPT, **METHODS[method], **options}
    return online.compute_influences(*subject.names, inversion_method=method, **given)


@methods
@everywhere
def test_a_list_has_an_axis_of_what_each_lambda_gives(
    online: Client, words: Subject, method: str, cut: dict[str, Any]
) -> None:
    found = listed(online, words, method, **cut)
    m, n = len(words.x_test), len(words.x_train)
    assert found.dampings == tuple(DAMPINGS)
    assert found.shape == (3, m, n)
    assert found.factors.shape == (3, m, words.size)
    whole, factors, means = found.numpy(), found.factors.numpy(), found.mean()
    for number, damping in enumerate(DAMPINGS):
        expected = exact(words, damping)
        assert_close(whole[number], expected, 1e-6)
        assert_close(means[number], expected.mean(0), 1e-6)
        one = found.at(damping=damping)
        np.testing.assert_array_equal(one.numpy(), whole[number])
        np.testing.assert_array_equal(one.factors.numpy(), factors[number])
        np.testing.assert_array_equal(one.mean(), means[number])
        for sign, strongest in (("helpful", np.argmax), ("harmful", np.argmin)):
            (item,) = one.top(test=2, k=1, sign=sign).items
            assert item.column == strongest(whole[number, 2])
            assert item.influence == whole[number, 2, item.column]
            (item,) = one.top(k=1, sign=sign).items
            assert item.column == strongest(means[number])
    assert found.job.cost is not None
    assert found.job.cost.gradient_passes == 1.0


def test_a_list_of_one_has_the_axis_too(online: Client, words: Subject) -> None:
    found = listed(online, words, "direct", hessian_regularization=[1.0])
    assert found.shape == (1, len(words.x_test), len(words.x_train))
    alone = listed(online, words, "direct", hessian_regularization=1.0)
    np.testing.assert_array_equal(found.numpy()[0], alone.numpy())
    assert found.info["rank_correlation"]["neighbours"] == []


@pytest.mark.parametrize("method", ["direct", "arnoldi", "nystroem", "cg"])
def test_a_list_is_single_jobs_to_rounding(online: Client, words: Subject, method: str) -> None:
    found = listed(online, words, method).numpy()
    for number, damping in enumerate(DAMPINGS):
        alone = listed(online, words, method, hessian_regularization=damping).numpy()
        assert_close(found[number], alone, 1e-8 if method == "cg" else 1e-10)


@pytest.mark.parametrize("method", ["direct", "cg", "nystroem"])
def test_blocks_and_one_task_give_the_same_bytes(
    online: Client, words: Subject, method: str
) -> None:
    blocks = {"rhs_rows": 2, "train_rows": 7, "test_rows": 4}
    first, second = (
        listed(
            online, words, method, reuse=False, blocks={**blocks, "spread": spread},
            hessian_regularization=[0.7, {"relative": 60}, 3.0],
        )
        for spread in (False, True)
    )  # fmt: skip
    assert first.dampings == second.dampings
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    np.testing.assert_array_equal(first.factors.numpy(), second.factors.numpy())
    np.testing.assert_array_equal(first.mean(), second.mean())
    for test in range(6):
        for at in first.dampings:
            assert first.at(damping=at).top(test, 3) == second.at(damping=at).top(test, 3)
    kept = first.job.info
    assert kept is not None
    assert second.job.info is not None
    assert kept["rank_correlation"] == second.job.info["rank_correlation"]
    assert kept["dampings"] == second.job.info["dampings"]


def test_slices_cross_chunks_and_lambdas(online: Client, words: Subject) -> None:
    cut = {"rhs_rows": 2, "train_rows": 7, "test_rows": 4, "spread": True}
    found = listed(online, words, "direct", blocks=cut)
    whole = found.numpy()
    for key in (
        np.s_[1],
        np.s_[::2, 3:, 5:20:3],
        np.s_[[2, 0], 5],
        np.s_[..., 29],
        np.s_[2:, :, [8, 1]],
    ):
        np.testing.assert_array_equal(found.influences[key], whole[key])
    factors = found.factors.numpy()
    np.testing.assert_array_equal(found.factors[1:, 3:5, :4], factors[1:, 3:5, :4])


def test_the_info_tells_of_each_lambda(online: Client, words: Subject) -> None:
    found = listed(online, words, "direct")
    each = found.info["dampings"]
    values = torch.linalg.eigvalsh(hessian(words)).abs()
    assert [one["damping"] for one in each] == DAMPINGS
    assert all(one["statuses"] == {"converged": len(words.x_test)} for one in each)
    assert {one["solved"] for one in each} == {"good"}
    assert found.info["residual_norms"].shape == (3, len(words.x_test))
    assert found.info["hessian"].shape == (words.size, words.size)
    told = found.job.damping
    assert told is not None
    assert told.rule == "number,number,number"
    assert told.share_below == pytest.approx(
        [float((values < at).double().mean()) for at in DAMPINGS]
    )
    assert found.verdict is not None
    assert found.verdict.applies.text.startswith("Of 3 λ's the worst is ")


def test_neighbours_are_compared_by_rank(online: Client, words: Subject) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = listed(online, words, "direct", keep={"top": 3, "matrix": True})
    whole = found.numpy()
    expected = [
        np.mean(
            [stats.spearmanr(a, b).statistic for a, b in zip(whole[at], whole[at + 1], strict=True)]
        )
        for at in range(2)
    ]
    told = found.info["rank_correlation"]
    assert told["neighbours"] == pytest.approx(expected, rel=1e-9)
    assert (
        told["how"] == "Spearman's coefficient of a test row's scores, the mean over all test rows"
    )


@everywhere
def test_other_kinds_of_jobs_take_a_list(
    online: Client, words: Subject, cut: dict[str, Any]
) -> None:
    model, train, test = words.names
    formula = words.formula
    gradients = formula.gradients(words.x_test, words.y_test)
    own = formula.gradients(words.x_train, words.y_train)
    options: dict[str, Any] = {"hessian_regularization": DAMPINGS, **cut}
    factors = online.compute_influence_factors(model, train, test, **options)
    solved = online.solve_hvp("direct", model, train, gradients.numpy(), **options)
    alone = online.self_influences(model, train, **options)
    assert factors.shape == solved.shape == (3, len(gradients), words.size)
    assert alone.shape == (3, len(own))
    for number, damping in enumerate(DAMPINGS):
        damped = hessian(words) + damping * torch.eye(words.size, dtype=torch.float64)
        expected = torch.linalg.solve(damped, gradients.T).T.numpy()
        assert_close(factors.numpy()[number], expected, 1e-9)
        assert_close(solved.numpy()[number], expected, 1e-9)
        of_self = (own * torch.linalg.solve(damped, own.T).T).sum(1).numpy()
        assert_close(alone.numpy()[number], of_self, 1e-9)
        one = alone.at(damping=damping)
        np.testing.assert_array_equal(one.numpy(), alone.numpy()[number])
        assert one.top(k=1).items[0].column == int(np.argmax(of_self))
    assert len(alone.info["rank_correlation"]["neighbours"]) == 2
    # Factors of a list are met with the rows once, too.
    later = online.compute_influences(model, train, factors=factors, **cut)
    for number, damping in enumerate(DAMPINGS):
        assert_close(later.numpy()[number], exact(words, damping), 1e-9)
    assert later.dampings == tuple(DAMPINGS)


@everywhere
def test_perturbation_takes_a_list(
    online: Client, regression: Subject, cut: dict[str, Any]
) -> None:
    dampings = [0.1, 1.0]
    found = online.compute_influences(
        *regression.names, influence_type="perturbation", hessian_regularization=dampings, **cut
    )
    for number, damping in enumerate(dampings):
        alone = online.compute_influences(
            *regression.names, influence_type="perturbation", hessian_regularization=damping
        )
        assert_close(found.numpy()[number], alone.numpy(), 1e-10)
    assert len(found.info["rank_correlation"]["neighbours"]) == 1


def test_lambdas_are_chosen_by_value_and_by_index(
    online: Client, http: Any, words: Subject
) -> None:
    found = listed(online, words, "direct")
    route = f"/v1/jobs/{found.id}"
    whole = found.numpy()
    every = http.get(f"{route}/influences", params={"test": "0:2", "train": "0:3"}).json()
    assert every["dampings"] == DAMPINGS
    assert every["shape"] == [3, 2, 3]
    np.testing.assert_array_equal(every["values"], whole[:, :2, :3])
    one = http.get(
        f"{route}/influences", params={"test": "0:2", "train": "0:3", "damping": 5}
    ).json()
    assert one["dampings"] is None
    assert one["shape"] == [2, 3]
    np.testing.assert_array_equal(one["values"], whole[1, :2, :3])
    some = http.get(
        f"{route}/mean", params={"damping_index": "2,0"}, headers={"Accept": "application/json"}
    ).json()
    np.testing.assert_array_equal(some, found.mean()[[2, 0]])
    assert http.get(f"{route}/top", params={"damping_index": "1"}).status_code == 200
    for path, query, field, said in (
        ("influences", {"damping": 0.7}, "damping", "0.7 is no λ of job"),
        ("mean", {"damping_index": "3"}, "damping_index", "3"),
        ("factors", {"damping": 1, "damping_index": "2"}, "damping_index", "give one of them"),
        ("top", {}, "damping", "say which λ"),
        ("top", {"damping_index": "0:2"}, "damping", "say which λ"),
    ):
        answer = http.get(f"{route}/{path}", params=query)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == f"query:{field}"
        assert said in error["detail"]
    assert "0.6, 5.0, 1.0" in http.get(f"{route}/top").json()["errors"][0]["detail"]
    plain = listed(online, words, "direct", hessian_regularization=1.0)
    assert plain.at(damping=1.0).shape == plain.shape
    assert http.get(f"/v1/jobs/{plain.id}/mean", params={"damping": 1}).status_code == 200
    assert http.get(f"/v1/jobs/{plain.id}/mean", params={"damping": 2}).status_code == 422
    assert http.get(f"/v1/jobs/{plain.id}/mean", params={"damping_index": "0"}).status_code == 422


def test_what_needs_one_lambda_says_how_to_take_one(online: Client, words: Subject) -> None:
    found = listed(online, words, "direct")
    for ask in (found.top, found.suspects, found.part, lambda: found.at(damping=0.61)):
        with pytest.raises(InvalidRequest, match=r"0\.6, 5\.0, 1\.0"):
            ask()
    assert len(found.at(damping=0.6).suspects()) == len(words.x_train)


def test_files_carry_the_axis(online: Client, words: Subject, tmp_path: Path) -> None:
    found = listed(online, words, "direct")
    whole = found.numpy()
    np.testing.assert_array_equal(np.load(found.save(tmp_path / "all.npy")), whole)
    with np.load(found.save(tmp_path / "all.npz")) as archive:
        assert set(archive) == {"influences", "mean", "factors", "dampings"}
        np.testing.assert_array_equal(archive["dampings"], DAMPINGS)
        np.testing.assert_array_equal(archive["influences"], whole)
    table = found.to_arrow()
    assert table.column_names == ["damping", "test", "train", "influence"]
    row = table.slice(whole[0].size + 31, 1).to_pylist()[0]
    assert row["damping"] == 5.0
    assert (row["test"], row["train"]) == divmod(31, whole.shape[2])
    frame = found.to_pandas()
    assert frame.index.names == ["damping", "test"]
    np.testing.assert_array_equal(frame.loc[1.0].to_numpy(), whole[2])
    one = found.at(damping=1.0).save(tmp_path / "one.npy")
    np.testing.assert_array_equal(np.load(one), whole[2])


def test_the_picture_of_lambdas_is_drawn(online: Client, words: Subject, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = listed(online, words, "direct")
    found.plot("damping", tmp_path / "damping.png")
    assert (tmp_path / "damping.png").stat().st_size > 1000
    with pytest.raises(InvalidRequest, match="compares several"):
        listed(online, words, "direct", hessian_regularization=1.0).plot("damping")


def test_one_lambda_of_a_list_that_is_too_small_fails_by_name(
    online: Client, words: Subject
) -> None:
    with pytest.raises(ComputationFailed, match=r"at λ = 0\.01"):
        listed(online, words, "direct", hessian_regularization=[1.0, 0.01])


LAYERS = {"kind": "empirical_fisher", "structure": "layers"}


def blocks_of_layers(subject: Subject) -> list[torch.Tensor]:
    """The blocks of the gradients' second moment that belong to one module each."""
    gradients = subject.formula.gradients(subject.x_train, subject.y_train)
    sizes = [
        sum(each.numel() for each in child.parameters()) for child in subject.module.children()
    ]
    parts = gradients.split(sizes, 1)
    return [part.T @ part / len(part) for part in parts]


@everywhere
@pytest.mark.parametrize(
    ("asked", "part"), [({"relative": 0.5}, 0.5), ("auto", 0.1)], ids=["relative", "auto"]
)
def test_each_block_of_a_curvature_has_a_lambda_of_its_own(
    online: Client, words: Subject, cut: dict[str, Any], asked: Any, part: float
) -> None:
    squares = blocks_of_layers(words)
    dampings = [part * float(torch.linalg.eigvalsh(each).mean()) for each in squares]
    gradients = words.formula.gradients(words.x_test, words.y_test)
    pieces = gradients.split([len(each) for each in squares], 1)
    exactly = torch.cat(
        [
            torch.linalg.solve(square + damping * torch.eye(len(square)).double(), piece.T).T
            for square, damping, piece in zip(squares, dampings, pieces, strict=True)
        ],
        1,
    )
    found = online.compute_influence_factors(
        *words.names,
        inversion_method="direct",
        curvature=LAYERS,
        hessian_regularization=asked,
        **cut,
    )
    assert_close(found.numpy(), exactly.numpy(), 1e-8)
    told = found.job.damping
    assert told is not None
    assert told.blocks is not None
    assert told.blocks[0] == pytest.approx(dampings, rel=1e-8)
    weighted = sum(d * len(s) for d, s in zip(dampings, squares, strict=True)) / words.size
    assert told.values == pytest.approx([weighted], rel=1e-8)
    values = [torch.linalg.eigvalsh(each) for each in squares]
    below = sum(int((v < d).sum()) for v, d in zip(values, dampings, strict=True)) / words.size
    assert told.share_below == pytest.approx([below])


@everywhere
def test_a_list_of_parts_is_met_with_the_rows_once(
    online: Client, words: Subject, cut: dict[str, Any]
) -> None:
    parts = [{"relative": 0.1}, {"relative": 10.0}, 0.3]
    options = {"inversion_method": "direct", "curvature": LAYERS, "keep": KEPT, **cut}
    found = online.compute_influences(*words.names, hessian_regularization=parts, **options)
    assert found.job.cost is not None
    assert found.job.cost.gradient_passes == 1.0
    for number, asked in enumerate(parts):
        alone = online.compute_influences(*words.names, hessian_regularization=asked, **options)
        assert_close(found.numpy()[number], alone.numpy(), 1e-12)
        assert_close(found.factors.numpy()[number], alone.factors.numpy(), 1e-12)
    assert found.dampings[2] == 0.3
    assert found.at(damping=found.dampings[1]).shape == found.shape[1:]


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_kronecker_factors_take_a_tenth_of_the_mean_of_each_layer(
    online: Client, words: Subject, method: str
) -> None:
    found = online.compute_influence_factors(*words.names, inversion_method=method)
    told = found.job.damping
    assert told is not None
    assert told.blocks is not None
    layers = found.info["structure"]["layers"]
    means = [layer["mean_eigenvalue"] for layer in layers]
    assert told.blocks[0] == pytest.approx([0.1 * mean for mean in means], rel=1e-12)
    assert found.verdict is not None
    assert found.verdict.solved.level == "good"
