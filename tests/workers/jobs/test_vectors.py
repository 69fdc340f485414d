"""Vectors are stored block by block, and a later attempt goes on from the blocks that are there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from service.lifecycle.states import LeaseLost
from service.storage.cuts import Cut
from service.storage.objects import Objects
from service.storage.row_blocks import RowBlocks
from workers.engine import Problem, TensorRows, make_loss
from workers.jobs.given import _rows_of_dataset
from workers.jobs.results import versions
from workers.jobs.vectors import GradientsAttempt

COUNT, WIDTH, BUDGET = 10, 4, 4 * 3 * 32  # three vectors of 32 bytes a block
FOUND = torch.arange(COUNT * WIDTH, dtype=torch.float64).view(COUNT, WIDTH)
NAME = "gradients"


class Killed(Exception):
    """What stands for the end of a worker."""


class Watch:
    """Lets so many objects be written."""

    def __init__(self, writes: int) -> None:
        self.writes = writes

    def progress(self, *_: Any) -> None:
        pass

    def confirm(self) -> None:
        if self.writes == 0:
            raise Killed
        self.writes -= 1


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path))


def attempt(
    objects: Objects, number: int, writes: int = 99, budget: int = BUDGET
) -> GradientsAttempt:
    settings = SimpleNamespace(memory_bytes=budget)
    context = cast(Any, SimpleNamespace(objects=objects, settings=settings))
    job = {"id": "job_1", "attempt": number}
    return GradientsAttempt(context, "default", job, cast(Any, None), cast(Any, Watch(writes)))


def run(one: GradientsAttempt) -> tuple[list[int], Cut]:
    """The first vectors of the blocks that were made, and how they are cut."""
    made: list[int] = []

    def block(rows: slice) -> Tensor:
        made.append(rows.start)
        return FOUND[rows]

    cut = one.cut(COUNT, WIDTH * 8)
    one.store(NAME, cut, block)
    return made, cut


def stored(objects: Objects, one: GradientsAttempt, cut: Cut) -> Tensor:
    blocks = RowBlocks(objects, one.paths.gradients, cut, NAME)
    return torch.cat([torch.tensor(each) for each in blocks.read(range(COUNT), 1 << 20)])


def test_an_attempt_goes_on_from_the_blocks_of_the_one_before(objects: Objects) -> None:
    with pytest.raises(Killed):  # one write is the plan
        run(attempt(objects, 1, writes=3))
    # The next worker has more memory, and keeps to the blocks of the first.
    second = attempt(objects, 2, budget=100 * BUDGET)
    made, cut = run(second)
    assert (made, cut.step) == ([6, 9], 3)
    assert torch.equal(stored(objects, second, cut), FOUND)


def test_an_attempt_before_any_block_begins_anew(objects: Objects) -> None:
    with pytest.raises(Killed):
        run(attempt(objects, 1, writes=0))
    made, cut = run(attempt(objects, 2, budget=2 * BUDGET))
    assert (made, cut.step) == ([0, 5], 5)


def test_blocks_of_another_version_are_made_anew(objects: Objects) -> None:
    one = attempt(objects, 1)
    run(one)
    document = {"rows": 3, "versions": {**versions(), "torch": "0.1"}}
    objects.put(one.paths.plan, json.dumps(document).encode())
    assert run(attempt(objects, 2))[0] == [0, 3, 6, 9]


def test_an_attempt_that_finds_another_ones_blocks_begins_none(objects: Objects) -> None:
    run(attempt(objects, 1))
    with pytest.raises(LeaseLost):
        attempt(objects, 1, budget=2 * BUDGET).cut(COUNT, WIDTH * 8)


def test_one_number_a_row_is_a_vector_of_a_model_of_one_parameter() -> None:
    column = SimpleNamespace(name="v", dtype="float32", shape=[])
    dataset = cast(
        Any, SimpleNamespace(id="ds_1", name="d", columns=[column], inputs=["v"], rows=3)
    )
    rows = TensorRows(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    context = cast(Any, SimpleNamespace(session=SimpleNamespace(rows=lambda *_: rows)))
    problem = Problem(nn.Linear(1, 1, bias=False), make_loss("mse"), dtype=torch.float64)
    some = _rows_of_dataset(context, "default", dataset, "/vectors", problem)
    assert some(slice(1, 3)).tolist() == [[2.0], [3.0]]
