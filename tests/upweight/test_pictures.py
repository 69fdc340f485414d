"""Rows as they look, figures, and notebooks, against the whole service on pictures of a known kind."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from service.local.background import Running
from tests.upweight import records
from upweight import AsyncClient, Client, InfluenceResult, SelfInfluenceResult, errors
from upweight.results.pictures.features import HARMS, HELPS
from upweight.results.plot.ranking import curve
from upweight.schema import DatasetRecord, JobRecord, ModelRecord

LAMBDA = 1.0
NAMES = ["dark <b>", "bright"]


@pytest.fixture(scope="module")
def online(stack: Running) -> Iterator[Client]:
    with Client(stack.url) as client:
        yield client


@pytest.fixture(scope="module")
def pictures(online: Client) -> tuple[ModelRecord, DatasetRecord]:
    """Pictures of 2 × 3 pixels whose class is their brightness; row r has its number in its first pixel."""
    torch.manual_seed(0)
    x = torch.rand(40, 6)
    x[:, 0] = torch.arange(40) / 40
    network = nn.Linear(6, 2)
    dataset = online.datasets.register(
        "sdk-pictures", x=x, y=(x[:, 1:].mean(1) > 0.5).long(), class_names=NAMES,
        preview={"kind": "image", "column": "x", "shape": (2, 3)},
    )  # fmt: skip
    model = online.models.register("sdk-pictures", network, example=x[:2], loss="cross_entropy")
    return model, dataset


@pytest.fixture(scope="module")
def result(online: Client, pictures: Any) -> InfluenceResult:
    model, dataset = pictures
    return online.compute_influences(
        model, dataset, dataset, test_rows="10:20", train_rows="::2",
        hessian_regularization=LAMBDA, keep={"matrix": True, "mean": True},
    )  # fmt: skip


@pytest.fixture(scope="module")
def itself(online: Client, pictures: Any) -> SelfInfluenceResult:
    model, dataset = pictures
    return online.self_influences(model, dataset, hessian_regularization=LAMBDA)


def test_rows_of_a_dataset_are_fetched_by_column(online: Client, pictures: Any) -> None:
    found = online.datasets.rows("sdk-pictures", "3,5:7")
    np.testing.assert_allclose(found["x"][:, 0], np.array([3, 5, 6]) / 40, rtol=1e-6)
    assert found["y"].shape == (3,)
    assert set(online.datasets.rows(pictures[1], slice(0, 2), "y")) == {"y"}
    with pytest.raises(errors.InvalidRequest, match="no column 'z'; it has x, y"):
        online.datasets.rows("sdk-pictures", "0:2", "z")


def test_the_models_losses_and_predictions_come_with_the_result(result: InfluenceResult) -> None:
    found = result.rows(sort="-loss", limit=3)
    losses = [item.loss for item in found.items]
    assert losses == sorted(losses, reverse=True)
    assert [item.row for item in result.rows([0, 9]).items] == [10, 19]
    assert [item.row for item in result.rows("1:3", side="train").items] == [2, 4]


def test_panels_show_the_strongest_rows_of_the_matrix(result: InfluenceResult) -> None:
    (panel,) = result.panels([4], 3)
    order = np.argsort(-result.influences[4])
    assert panel.test is not None
    assert panel.test.row == 14
    assert [each.row for each in panel.helpful] == (order[:3] * 2).tolist()
    assert [each.row for each in panel.harmful] == (order[::-1][:3] * 2).tolist()
    for example in (panel.test, *panel.helpful, *panel.harmful):
        assert example.picture is not None
        assert example.picture.shape == (2, 3)
        assert example.picture[0, 0] == int(example.row / 40 * 255 + 1e-4)
        assert example.label in NAMES
        assert example.predicted in NAMES


def test_the_hardest_test_rows_are_shown_first(result: InfluenceResult) -> None:
    shown = [panel.test.row for panel in result.panels() if panel.test is not None]
    assert shown == [item.row for item in result.rows(sort="-loss", limit=3).items]


def test_suspects_are_the_most_harmful_or_those_of_most_influence_on_themselves(
    result: InfluenceResult, itself: SelfInfluenceResult
) -> None:
    np.testing.assert_array_equal(result.suspects(), np.argsort(result.mean(), kind="stable") * 2)
    np.testing.assert_array_equal(itself.suspects(), np.argsort(-itself.numpy(), kind="stable"))
    assert itself.top(k=1).items[0].row == itself.suspects()[0]


def test_suspects_are_a_table_with_scores_labels_and_predictions(
    result: InfluenceResult, itself: SelfInfluenceResult
) -> None:
    for ranked, influence in ((result, result.mean()), (itself, -itself.numpy())):
        table = ranked.suspects().to_pandas()
        assert list(table) == ["id", "row", "score", "label", "predicted"]
        assert table["id"].tolist() == table["row"].tolist()
        by_row = {item.row: item for item in ranked.rows(":", side="train").items}
        assert table["label"].tolist() == [by_row[row].target for row in table["row"]]
        assert table["predicted"].tolist() == [by_row[row].prediction for row in table["row"]]
        # The share of rows that are more suspect, and half of those that are as suspect.
        order = np.argsort(influence, kind="stable")
        expected = [
            ((influence < each).sum() + (influence <= each).sum()) / 2 / len(influence)
            for each in influence[order]
        ]
        np.testing.assert_allclose(table["score"], expected, rtol=1e-12)
        assert table["score"].is_monotonic_increasing
        assert table["score"].between(0, 1).all()


def test_the_first_suspects_are_those_of_all(itself: SelfInfluenceResult) -> None:
    found, every = itself.suspects(7), itself.suspects()
    assert (len(found), found.total, found.by) == (7, 40, "self_influences")
    assert list(found) == list(every)[:7] == list(every[:7])
    np.testing.assert_array_equal(found.scores, every.scores[:7])
    assert "7 of 40 rows" in repr(found)
    assert found._repr_html_().count("<tr>") == 8
    with pytest.raises(errors.InvalidRequest, match="one row at least"):
        itself.suspects(0)


def test_suspects_come_in_pages(
    itself: SelfInfluenceResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = itself.suspects()
    monkeypatch.setattr("upweight.results.stored.SUSPECTS_AT_ONCE", 9)
    assert itself.suspects().items == whole.items
    assert itself.suspects(20).items == whole.items[:20]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("top", {"test": 3, "k": 2}),
        ("heatmap", {}),
        ("heatmap", {"test": "0:3", "train": [5, 1], "by_class": False}),
        ("ranking", {"flipped": [0, 4, 6]}),
    ],
)
def test_figures_are_written_whole_in_every_format(
    result: InfluenceResult, tmp_path: Path, kind: str, options: Any, ending: str
) -> None:
    path = tmp_path / f"{kind}.{ending}"
    result.plot(kind, path, **options)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    if ending == "png":
        assert np.ptp(imread(path)[..., :3]) > 0.5  # it is not blank


def test_a_heat_map_shows_the_slice_put_together_by_label(
    online: Client, result: InfluenceResult
) -> None:
    plain = result.plot("heatmap", test="0:4", train=[5, 1], by_class=False).axes[0].images[0]
    np.testing.assert_allclose(plain.get_array(), result.influences[0:4][:, [5, 1]], rtol=1e-6)
    part = result.part()
    assert part.across.labels == NAMES
    np.testing.assert_allclose(np.sort(part.values, None), np.sort(result.numpy(), None), rtol=1e-6)
    labels = online.datasets.rows("sdk-pictures", "0:40", "y")["y"]
    down, across = (labels[rows].argsort(kind="stable") for rows in (np.s_[10:20], np.s_[::2]))
    np.testing.assert_allclose(part.values, result.numpy()[down][:, across], rtol=1e-6)


def test_a_perturbation_is_drawn_in_the_shape_of_the_picture(online: Client, pictures: Any) -> None:
    model, dataset = pictures
    found = online.compute_influences(
        model, dataset, dataset, influence_type="perturbation", test_rows="0:2", train_rows="7:9",
        hessian_regularization=LAMBDA,
    )  # fmt: skip
    drawn = found.plot("heatmap", test=1, train=0).axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn, found.influences[1, 0].reshape(2, 3), rtol=1e-6)
    assert "row 7" in found.part(1, 0).title
    panel = found.feature_panels()[0]
    assert panel.test.row == found.rows(sort="-loss", limit=1).items[0].row
    position = panel.test.row  # the test rows are the first two
    strengths = np.abs(found.influences[position]).max(1)
    columns = np.argsort(-strengths)
    assert [each.example.row for each in panel.rows] == (7 + columns).tolist()
    np.testing.assert_allclose(
        panel.rows[0].values, found.influences[position, columns[0]].reshape(2, 3), rtol=1e-6
    )
    images = re.findall(r"base64,([^']+)'", found._repr_html_())
    assert len(images) == 2 * (1 + 2)  # a test row and its training rows, twice
    over = imread(io.BytesIO(base64.b64decode(images[1]))) * 255
    picture, values = panel.rows[0].example.picture, panel.rows[0].values
    assert picture is not None
    strongest = np.unravel_index(np.abs(values).argmax(), values.shape)
    expected = HELPS if values[strongest] > 0 else HARMS
    np.testing.assert_allclose(over[strongest][:3], expected, atol=1)
    weakest = np.unravel_index(np.abs(values).argmin(), values.shape)
    share = np.abs(values[weakest]) / np.abs(values).max()
    assert np.abs(over[weakest][:3] - picture[weakest]).max() <= 255 * share + 1


def test_a_perturbation_of_a_table_is_told_in_bars(online: Client, pictures: Any) -> None:
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(3)).numpy()
    table = {"kind": "table", "column": "x", "names": ["age", "<b>height", "weight"]}
    data = online.datasets.register("sdk-table", x=x, y=x[:, :1] * 2, preview=table)
    torch.manual_seed(1)
    model = online.models.register(
        "sdk-table", nn.Linear(3, 1), example=torch.from_numpy(x[:2]), loss="mse"
    )
    found = online.compute_influences(
        model, data, data, influence_type="perturbation", test_rows="4:5", train_rows="0:6",
        hessian_regularization=LAMBDA,
    )  # fmt: skip
    values = found.influences[0]
    strongest = np.abs(values).max(1).argmax()
    (panel,) = found.feature_panels()
    assert panel.rows[0].names == ("age", "<b>height", "weight")
    np.testing.assert_allclose(panel.rows[0].values, values[strongest], rtol=1e-6)
    shown = found._repr_html_()
    assert f"{values[strongest][np.abs(values[strongest]).argmax()]:+.3g}" in shown
    assert "&lt;b&gt;height" in shown
    assert "<img" not in shown


def test_a_ranking_that_finds_all_at_once_rises_at_once() -> None:
    shares, found = curve(np.array([7, 3, 1, 0]), np.array([3, 7]))
    np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found, [0, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("kind", "path", "options", "words"),
    [
        ("pie", None, {}, "no picture 'pie'; there are top, heatmap, ranking"),
        ("top", "x.gif", {}, r"\.png, \.svg, \.pdf; 'x\.gif'"),
        ("top", None, {"train": 3}, "'top' takes test, k, not 'train'"),
        ("ranking", None, {}, "needs flipped="),
        ("ranking", None, {"flipped": [1]}, "none of the rows"),  # an odd row is not in the result
    ],
)
def test_mistakes_about_pictures_name_the_way_out(
    result: InfluenceResult, kind: str, path: Any, options: Any, words: str
) -> None:
    with pytest.raises((ValueError, errors.InvalidRequest), match=words):
        result.plot(kind, path, **options)


def test_drawing_leaves_matplotlibs_own_state_alone(result: InfluenceResult) -> None:
    before = "matplotlib.pyplot" in sys.modules
    result.plot("top")
    assert before == ("matplotlib.pyplot" in sys.modules)


def test_a_notebook_shows_pictures_and_escapes_names(result: InfluenceResult) -> None:
    shown = result._repr_html_()
    assert result.id in shown
    assert "10 converged" in shown
    assert "dark &lt;b&gt;" in shown
    assert "<b>\n" not in shown.replace("dark &lt;b&gt;", "")
    first = base64.b64decode(re.findall(r"base64,([^']+)'", shown)[0])
    assert imread(io.BytesIO(first)).shape == (2, 3)


def test_a_notebook_shows_self_influences_and_factors_too(
    online: Client, pictures: Any, itself: SelfInfluenceResult
) -> None:
    shown = itself._repr_html_()
    assert f"row {itself.suspects()[0]}" in shown
    assert "largest influence on itself" in shown
    assert "doubtful" in shown
    assert "helpful" not in shown  # there is no test row that they could help
    assert "harmful" not in shown
    model, dataset = pictures
    factors = online.compute_influence_factors(
        model, dataset, dataset, test_rows="0:2", hessian_regularization=LAMBDA
    )
    assert "2 × 14" in factors._repr_html_()


def test_the_awaited_result_shows_the_same(
    stack: Running, result: InfluenceResult, tmp_path: Path
) -> None:
    async def work() -> Any:
        async with AsyncClient(stack.url) as client:
            awaited: Any = await client.jobs.result(result.id)
            await awaited.plot("top", tmp_path / "top.png", k=2)
            shown = await awaited.panels([4], 2), await awaited.rows(sort="-loss", limit=2)
            return shown, await awaited.suspects(), (await awaited.top(k=1)).items[0].row

    (panels, rows), suspects, best = asyncio.run(work())
    assert (tmp_path / "top.png").read_bytes() == _drawn(result, tmp_path)
    assert [each.row for each in panels[0].helpful] == [
        each.row for each in result.panels([4], 2)[0].helpful
    ]
    assert rows == result.rows(sort="-loss", limit=2)
    np.testing.assert_array_equal(suspects, result.suspects())
    assert best == result.top(k=1).items[0].row


def _drawn(result: InfluenceResult, folder: Path) -> bytes:
    result.plot("top", folder / "again.png", k=2)
    return (folder / "again.png").read_bytes()


def test_records_are_tables_in_notebooks() -> None:
    for record in (
        JobRecord.model_validate(records.job(labels={"a": "<script>"})),
        ModelRecord.model_validate(records.model(labels={"a": "<script>"})),
        DatasetRecord.model_validate(records.dataset(labels={"a": "<script>"})),
    ):
        shown = record._repr_html_()
        assert record.id in shown
        assert "&lt;script&gt;" in shown
        assert "<script>" not in shown


def test_a_model_in_a_notebook_is_words_and_no_json() -> None:
    spec = {"name": "x", "dtype": "float32", "shape": [None, 64]}
    weight = {"name": "0.weight", "shape": [32, 64], "offset": 0}
    fixed = {"parameter_count": 32, "parameters": ["0.bias"], "reason": "requires_grad is False"}
    record = ModelRecord.model_validate(
        records.model(inputs=[spec, spec], selected=[weight], held_fixed=fixed)
    )
    shown = record._repr_html_()
    assert "x (n, 64) float32, x (n, 64) float32</td>" in shown
    assert "0.weight (32, 64) (offset 0)</td>" in shown
    assert "cross_entropy (label_smoothing 0.0" in shown
    assert "parameter_count 32, parameters 0.bias, reason requires_grad is False</td>" in shown
    assert not set(shown) & set('{}["]')


def test_records_are_a_line_at_a_prompt() -> None:
    model, job = records.model(), records.job("queued")
    told = repr(ModelRecord.model_validate(model))
    assert (
        told == f"<ModelRecord {model['name']}@{model['version']} {model['id']} {model['state']}>"
    )
    assert repr(JobRecord.model_validate(job)) == f"<JobRecord {job['id']} queued>"
