"""What the SDK can do, the command can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_type_hints

import pytest

import upweight.results as results
from tests.cli.test_help import ALL
from upweight import Client
from upweight.client.options import InfluenceOptions
from upweight.client.quality import QualityOptions
from upweight.schema.inversion import Parameters

# The command of each call, and None for what is a matter of programs alone.
CALLS = {
    **dict.fromkeys(("access", "health"), "doctor"),
    **dict.fromkeys(
        ("compute_influences", "compute_influence_factors", "solve_hvp", "self_influences"),
        "jobs submit",
    ),
    **dict.fromkeys(("compute_gradients", "compute_hvps"), "jobs submit"),
    **{name: name for name in ("retrain", "evaluate", "tune")},
    "close": None,
    **{
        f"{noun}.{verb}": f"{noun} {verb}"
        for noun in ("models", "datasets")
        for verb in ("list", "wait", "delete", "register")
    },
    "models.get": "models show",
    "models.register_mlflow": "models register",
    "models.save_report": "models report",
    "datasets.get": "datasets show",
    **{f"datasets.{verb}": f"datasets {verb}" for verb in ("derive", "change", "rows")},
    "jobs.create": "jobs submit",
    "jobs.get": "jobs show",
    "jobs.result": "results save",
    "jobs.wait": "jobs watch",
    "jobs.events": "jobs watch",
    **{f"jobs.{verb}": f"jobs {verb}" for verb in ("list", "change", "cancel", "retry", "delete")},
    "jobs.deliveries": "jobs deliveries",
    **{f"indexes.{verb}": f"indexes {verb}" for verb in ("create", "list", "delete")},
    "indexes.get": "indexes show",
    "banks.list": "banks list",
    "banks.delete": "banks delete",
    "blobs.put": "blobs put",
    "blobs.put_array": "jobs submit",  # --rhs takes the file
    "blobs.head": "blobs show",
    "blobs.get": "blobs download",
    **{f"blobs.{verb}": f"blobs {verb}" for verb in ("download", "url", "complete")},
    "webhooks.secret": "webhooks secret",
    "webhooks.rotate_secret": "webhooks rotate",
}
RESULTS = {
    **{
        name: f"results {name}"
        for name in ("top", "bm25", "suspects", "rows", "export", "plot", "save")
    },
    **{name: f"results {name}" for name in ("info", "files", "report")},
    **dict.fromkeys(("influences", "numpy", "part", "rescaled", "factors", "x"), "results slice"),
    **dict.fromkeys(("by_layer", "by_token", "layer_names"), "results slice"),
    **dict.fromkeys(("mean", "to_pandas", "to_arrow"), "results save"),
    "table": "results report",
    "query": "indexes query",
    "at": "results slice",  # --damping
    **{name: f"jobs {name}" for name in ("cancel", "retry", "delete")},
    **dict.fromkeys(("wait", "events"), "jobs watch"),
    **dict.fromkeys(
        (
            "id",
            "job",
            "url",
            "kind",
            "state",
            "refresh",
            "estimate",
            "verdict",
            "dampings",
            "model",
        ),
        "jobs show",
    ),
    **dict.fromkeys(("groups", "curve", "shape", "dtype"), "jobs show"),
    **dict.fromkeys(("panels", "feature_panels"), None),  # what pictures are made of
}
# Where an option has another name than the keyword; None where the job's JSON has it.
OPTIONS = {
    "hessian_perturbation": "--regularization",
    "hessian_regularization": "--regularization",
    "timeout_s": "--time-limit",
    "labels": "--label",
    "columns": "--column",
    "dry_run": "--estimate",
    "input_data": "--hessian-on",  # the other dataset is named
    "blocks": None,
    "timeout": None,  # of the waiting, which Ctrl-C ends
    "progress": None,
}


def called(client: Client) -> Iterator[str]:
    for name in dir(client):
        if name.startswith("_") or name == "connection":
            continue
        found = getattr(client, name)
        if callable(found):
            yield name
        else:
            yield from (f"{name}.{each}" for each in dir(found) if not each.startswith("_"))


def test_every_call_has_its_command() -> None:
    with Client("http://127.0.0.1:1") as client:
        assert set(called(client)) == set(CALLS)
    named = {tuple(command.split()) for command in CALLS.values() if command}
    assert named <= set(ALL)


def test_everything_of_a_result_has_its_command() -> None:
    classes = [getattr(results, name) for name in results.__all__]
    handles = [each for each in classes if issubclass(each, results.Result)]
    shown = {name for each in handles for name in dir(each) if not name.startswith("_")}
    assert shown - set(RESULTS) == set()
    named = {tuple(command.split()) for command in RESULTS.values() if command}
    assert named <= set(ALL)


@pytest.mark.parametrize(
    ("path", "options", "others"),
    [
        (("jobs", "submit"), InfluenceOptions, {"job": "x"}),
        (("evaluate",), QualityOptions, {"blocks": None}),
        (("tune",), QualityOptions, {"blocks": None}),
    ],
    ids=["submit", "evaluate", "tune"],
)
def test_every_keyword_has_its_option(
    path: tuple[str, ...], options: type, others: dict[str, str | None]
) -> None:
    of_methods = set(get_type_hints(Parameters))  # --set takes them
    known = {opt for each in ALL[path].params for opt in (*each.opts, *each.secondary_opts)}
    missing = {
        name: option
        for name in options.__annotations__
        if name not in of_methods
        and (option := OPTIONS.get(name, f"--{name.replace('_', '-')}")) is not None
        and option not in known
    }
    assert missing == {}
