"""`upweight retrain`, `evaluate` and `banks` in a shell, on the service."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.cli.conftest import Upweight
from upweight.cli.exits import Exit

RECIPE = json.dumps({"optimizer": "sgd", "lr": 0.1, "epochs": 3, "start": "warm"})


def test_a_model_is_trained_anew_without_some_rows_and_measured(
    online: Upweight, registered: tuple[str, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "drop.npy", np.array([3, 17]))
    made = online(
        "retrain", "cli-net", "cli-rows", "--recipe", RECIPE, "--drop", str(tmp_path / "drop.npy"),
        "--test", "cli-rows", "--name", "cli-clean",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.out.startswith("cli-clean@")
    assert "accuracy: " in made.err
    assert "now, of 30 test rows" in made.err
    given = ("retrain", "cli-net", "cli-rows", "--recipe", RECIPE, "--drop", "3,17", "--json")
    document = online(*given).documents[-1]
    assert document["training"]["rows"] == 28
    assert online("models", "show", made.out.strip(), "--json").document["weights"] == document["weights"]  # fmt: skip


def test_mistakes_of_a_retraining_say_the_field_and_a_way_out(
    online: Upweight, registered: tuple[str, ...]
) -> None:
    bare = online("retrain", "cli-net", "cli-rows")
    assert bare.code == Exit.USAGE
    assert "registered without a recipe" in bare.err
    wrong = json.dumps({**json.loads(RECIPE), "optimizer": "sdg"})
    for options, words in (
        (("--recipe", wrong), "optimizer"),
        (("--recipe", RECIPE, "--drop", "0:30"), "none of the 30 chosen rows"),
        (("--recipe", RECIPE, "--drop", "30"), "30 rows"),
    ):
        found = online("retrain", "cli-net", "cli-rows", *options)
        assert found.code != 0
        assert words in found.err


def test_results_are_evaluated_and_the_bank_is_listed_and_deleted(
    online: Upweight, job: str
) -> None:
    options = ("--subsets", "4", "--repeats", "1", "--recipe", RECIPE)
    found = online("evaluate", job, *options, "--json")
    assert found.code == 0, found.err
    assert job in [row["result"] for row in found.documents[-1]["rows"]]
    assert online("results", "report", "latest", "--json").document == found.documents[-1]
    shown = online("evaluate", job, *options, "--measure", "lds,loo", "--no-baselines").out
    assert shown.splitlines()[0].split()[:4] == ["RESULT", "METHOD", "LAMBDA", "MEASURE"]
    every = online("banks", "list", "--json").documents
    banks = [each for each in every if each["model"]["name"] == "cli-net"]
    assert banks
    assert sum(each["subsets"] for each in banks) >= 4
    lines = online("banks", "list").out.splitlines()
    assert lines[0].split() == ["ID", "MODEL", "DATASET", "OPTIMIZER", "SUBSETS", "SIZE", "CREATED"]
    ids = [each["id"] for each in banks]
    assert online("banks", "delete", *ids).code == 0
    assert not set(ids) & {each["id"] for each in online("banks", "list", "--json").documents}
    assert online("banks", "delete", ids[0]).code == Exit.NOT_FOUND
    refused = online("evaluate", job, "--measure", "ldss", "--recipe", RECIPE)
    assert refused.code != 0
    assert "lds" in refused.err


def test_a_sweep_says_which_method_and_damping_to_use(
    online: Upweight, registered: tuple[str, ...]
) -> None:
    found = online(
        "tune", "cli-net", "cli-rows", "cli-rows", "--recipe", RECIPE, "--subsets", "4", "--repeats", "1",
        "--method", "direct", "--method", '{"inversion_method": "ekfac", "curvature": "gauss_newton"}',
        "--damping", "0.1,1", "--test-rows", "0:5", "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    document = found.documents[-1]
    assert document["best"]["hessian_regularization"] in (0.1, 1.0)
    assert document["why"].startswith("Use ")
    judged = {row["result"] for row in document["report"]["rows"] if not row["baseline"]}
    assert len(judged) == 2
