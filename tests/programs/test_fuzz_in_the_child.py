"""Mutated archives where a worker reads them, in the isolated child: each ends in a model or in words.

The long run of the same is `python -m tests.programs.fuzzing`.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.programs.fuzzing import Campaign, outcome_of
from tests.programs.guarded import guarded
from tests.programs.mutants import mutant
from tests.programs.tampering import (
    CONSTANTS,
    GRAPH,
    WEIGHTS,
    edit,
    first_node,
    members_of,
    with_member,
    write,
)
from workers.programs.errors import CheckDied
from workers.programs.fitting import fitting
from workers.programs.operators import resolve
from workers.refusals import program_refusal

COUNT = 80


@pytest.fixture(scope="module")
def campaign(
    tmp_path_factory: pytest.TempPathFactory, archive_of: Callable[[str], Path]
) -> Campaign:
    return Campaign.of(
        tmp_path_factory.mktemp("mutants"), [archive_of(each) for each in ("mlp", "attention")]
    )


def test_mutants_are_models_or_refused_in_words(campaign: Campaign) -> None:
    campaign.run(0, COUNT)
    assert campaign.findings == []
    assert campaign.outcomes.total() == COUNT
    # They get far, too: some break the frame, some the schema, and some run.
    assert campaign.outcomes.keys() > {
        "ready",
        "program-graph",
        "program-archive",
        "program-weights",
    }


def test_a_number_always_makes_the_same_mutant(campaign: Campaign) -> None:
    assert mutant(7, campaign.bases) == mutant(7, campaign.bases)


NESTED = b"[" * 1_000_000
GROWING = "Add(" + ", ".join(f"Symbol('s{i}')" for i in range(1_000)) + ")"


def _sizes(document: Any) -> None:
    next(iter(document["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 1 << 45


def _expression(document: Any) -> None:
    document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]["as_expr"][
        "expr_str"
    ] = GROWING


def _petabytes(document: Any) -> None:
    node = first_node(document, "torch.ops.aten.tanh.default")
    node["target"] = "torch.ops.aten.new_zeros.default"
    node["inputs"].append({"name": "size", "arg": {"as_ints": [1 << 20, 1 << 30]}, "kind": 1})


def _twice(mlp: Path, path: Path) -> Path:
    write(path, members_of(mlp))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"model/{GRAPH}", b"{}")
    return path


HOSTILE: dict[str, Callable[[Path, Path], Path]] = {
    "weights that claim terabytes": lambda mlp, path: edit(mlp, path, WEIGHTS, _sizes),
    "an operator that makes petabytes": lambda mlp, path: edit(mlp, path, GRAPH, _petabytes),
    "an expression of a thousand symbols": lambda mlp, path: edit(mlp, path, GRAPH, _expression),
    "a graph nested a million deep": lambda mlp, path: with_member(mlp, path, GRAPH, NESTED),
    "a config nested a million deep": lambda mlp, path: with_member(mlp, path, CONSTANTS, NESTED),
    "a member twice": _twice,
    "a bomb": lambda mlp, path: write(
        path, members_of(mlp) | {"extra/x": bytes(50 << 20)}, compression=zipfile.ZIP_DEFLATED
    ),
    "a path that climbs": lambda mlp, path: with_member(mlp, path, "../../../tmp/climbed", b"x"),
}


def test_hostile_archives_are_refused_in_the_child(mlp: Path, tmp_path: Path) -> None:
    outcomes = {name: outcome_of(make(mlp, tmp_path / "made")) for name, make in HOSTILE.items()}
    assert all(outcome.startswith("program-") for outcome in outcomes.values()), outcomes
    assert not Path("/tmp/climbed").exists()


BATCH_NORM = "torch.ops.aten._native_batch_norm_legit_no_training.default"
SCALES = "torch.ops.aten._weight_norm.default"


@pytest.mark.parametrize(
    ("target", "shapes", "rest"),
    [
        (BATCH_NORM, [(4, 30), (2,), (2,), (2,), (2,)], [0.1, 1e-5]),
        (BATCH_NORM, [(4, 30), (30,), (30,), (30,), (29,)], [0.1, 1e-5]),
        (BATCH_NORM, [(4,), (4,), (4,), (4,), (4,)], [0.1, 1e-5]),
        (SCALES, [(30, 2), (2, 1)], [0]),
        (SCALES, [(0, 2), (0, 1)], [0]),
    ],
)
def test_a_kernel_that_reads_past_the_end_is_not_reached(
    target: str, shapes: list[tuple[int, ...]], rest: list[float]
) -> None:
    """Without the comparison, these read what lies behind a tensor in the worker's memory."""
    call = fitting(resolve(target))
    with pytest.raises(ValueError, match=r"fit|is empty"):
        call(*(guarded(torch.ones(shape)) for shape in shapes), *rest)


@pytest.mark.parametrize(
    ("name", "state", "weights"),
    [
        ("lstm", [(1, 3, 6), (1, 3, 6)], [(24, 5), (24, 6), (24,), (2,)]),
        ("lstm", [(1, 3, 600), (1, 3, 600)], [(24, 5), (24, 6), (24,), (24,)]),
        ("gru", [(1, 3, 6)], [(18, 2), (18, 6), (18,), (18,)]),
        ("rnn_tanh", [(1, 2, 6)], [(6, 5), (6, 6), (6,), (6,)]),
    ],
)
def test_a_recurrence_whose_weights_do_not_fit_is_not_reached(
    name: str, state: list[tuple[int, ...]], weights: list[tuple[int, ...]]
) -> None:
    states = [guarded(torch.ones(shape)) for shape in state]
    given = [guarded(torch.ones(shape)) for shape in weights]
    first = states if name == "lstm" else states[0]
    with pytest.raises(ValueError, match="fits"):
        fitting(resolve(f"torch.ops.aten.{name}.input"))(
            torch.ones(3, 4, 5), first, given, True, 1, 0.0, False, False, True
        )


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("projection", [0, 4])
def test_a_recurrence_whose_weights_fit_computes_the_same(directions: int, projection: int) -> None:
    torch.manual_seed(0)
    net = torch.nn.LSTM(
        5, 6, 2, bidirectional=directions == 2, proj_size=projection, batch_first=True
    )
    x = torch.randn(3, 4, 5)
    zeros = [torch.zeros(2 * directions, 3, size) for size in (projection or 6, 6)]
    call = fitting(resolve("torch.ops.aten.lstm.input"))
    with torch.no_grad():
        found = call(
            x, zeros, net._flat_weights, True, 2, 0.0, False, directions == 2, batch_first=True
        )
        assert torch.equal(found[0], net(x)[0])


def test_a_dead_child_is_a_refusal_of_the_model_and_no_error_of_ours() -> None:
    problem = program_refusal(CheckDied("running the program ended the check").as_dict()).problem()
    assert problem.type.endswith("rejected")
    assert problem.errors[0].pointer == "/program/blob"
