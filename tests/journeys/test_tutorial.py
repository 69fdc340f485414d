"""The tutorial's and the recipes' code, as it stands in the documentation, finds what it says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from service.local.background import Running

ROOT = Path(__file__).parent.parent.parent
PICTURES = ("top.png", "ranking.png", "pixels.png")


class Done(NamedTuple):
    """The tutorial when it has been run: its names, what it printed, and where it left its files."""

    names: dict[str, Any]
    printed: str
    folder: Path


def run(page: str, names: dict[str, Any]) -> str:
    """Runs a page's code from its first line to its last; what it printed."""
    text = (ROOT / "docs" / page).read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page, "exec"), names)
    return printed.getvalue()


@pytest.fixture(scope="module")
def done(stack: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    names: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("UPWEIGHT_URL", stack.url)
        patch.delenv("UPWEIGHT_API_KEY", raising=False)
        yield Done(names, run("tutorial.md", names), folder)
    names["client"].close()


def test_the_tutorial_finds_the_flipped_labels(done: Done) -> None:
    found = re.search(r"(\d+) of 70 flipped labels", done.printed)
    assert found is not None
    assert int(found[1]) > 45
    assert done.names["factors"].x.shape == (397, 2410)
    for picture in PICTURES:
        assert (done.folder / picture).stat().st_size > 1000


def test_the_tutorials_model_is_better_without_them(done: Done) -> None:
    training = done.names["better"].training
    assert training.metrics.loss < 0.9 * training.parent_metrics.loss


def test_the_recipes_run_after_the_tutorial(done: Done) -> None:
    names = dict(done.names)
    run("recipes.md", names)
    assert len(names["suspects"]) == 50
    assert names["issues"]["is_label_issue"].sum() == 70
    assert set(names["fields"]["label_score"]) == set(range(1400))
    assert names["worth"].shape == (1400,)
    assert names["table"].class_names == ["well", "ill"]
    assert names["texts"].rows == 4
    assert len(set(names["ids"])) == 70
    for file in ("tasks.json", "tasks.xml", "records.json", "worst.png"):
        assert (done.folder / file).stat().st_size > 100
