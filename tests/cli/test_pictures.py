"""Every kind of picture that the command draws, from real results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests.cli.conftest import LAMBDA, Upweight
from upweight.cli.exits import Exit


@pytest.fixture
def perturbed(online: Upweight, registered: tuple[str, ...]) -> str:
    submitted = online(
        "jobs", "submit", *registered, *LAMBDA, "--test-rows", "0:2", "--train-rows", "3:6",
        "--influence-type", "perturbation", "--wait", "--json",
    )  # fmt: skip
    assert submitted.code == 0, submitted.err
    return str(submitted.documents[-1]["id"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("p.png", ()),
        ("p.svg", ()),
        ("p.pdf", ()),
        ("p.png", ("--test", "3", "-k", "2")),
        ("p.png", ("--kind", "heatmap")),
        ("p.png", ("--kind", "heatmap", "--test", "0:3", "--train", "::5", "--no-by-class")),
        ("p.png", ("--kind", "ranking", "--flipped", "3,17")),
        ("p.png", ("--kind", "ranking", "--flipped", "rows.npy")),
        ("p.png", ("--kind", "ranking", "--flipped", "rows.txt")),
    ],
)
def test_every_kind_of_picture_is_drawn(
    online: Upweight, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, options: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.array([3, 17]))
    Path("rows.txt").write_text("3\n17\n")
    ended = online("results", "plot", job, name, *options)
    assert (ended.code, ended.out, ended.err) == (0, f"{name}\n", "")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[Path(name).suffix]
    assert Path(name).read_bytes().startswith(start)
    if name == "p.png":
        assert np.ptp(imread(name)[..., :3]) > 0.5  # it is not blank


def test_a_perturbation_is_drawn_feature_by_feature(
    online: Upweight, perturbed: str, tmp_path: Path
) -> None:
    path = tmp_path / "features.png"
    options = ("--kind", "heatmap", "--test", "1", "--train", "2", "--json")
    drawn = online("results", "plot", perturbed, str(path), *options)
    assert drawn.document == {"path": str(path), "size_bytes": path.stat().st_size}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("d.gif",), "'d.gif'"),
        (("d.png", "--kind", "pie"), "there are top, heatmap, ranking"),
        (("d.png", "--kind", "ranking"), "needs flipped="),
        (("d.png", "--kind", "ranking", "--flipped", "three"), "'three' is no file"),
        (("d.png", "--train", "3"), "'top' takes test, k, not 'train'"),
        (("d.png", "--test", "99"), "there are 7 rows"),
    ],
)
def test_a_picture_that_cannot_be_drawn_leaves_no_file(
    online: Upweight, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused = online("results", "plot", job, *options)
    assert words in refused.err
    assert (refused.code, [*tmp_path.iterdir()]) == (Exit.USAGE, [])
