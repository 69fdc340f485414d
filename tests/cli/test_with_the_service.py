"""The whole way in a shell: register, submit, watch, look, save, delete."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from service.local.background import Running
from tests.cli.conftest import LAMBDA, Upweight, process
from tests.methods import METHODS, Row
from tests.patience import PATIENCE
from upweight import Client
from upweight.cli.exits import Exit


def test_what_is_registered_is_listed_and_shown(online: Upweight, registered: Any) -> None:
    lines = online("datasets", "list", "--label", "team=cli").out.splitlines()
    assert lines[0].split() == ["NAME", "ID", "STATE", "ROWS", "SIZE", "CREATED"]
    assert lines[1].split()[:4:2] == ["cli-rows@1", "ready"]
    shown = online("datasets", "show", "cli-rows").out
    assert "input    x (4) float32" in shown
    assert online("models", "show", "cli-net", "--json").document["parameter_count"] == 10


def test_the_newest_job_is_called_latest_and_any_by_a_part_of_its_id(
    online: Upweight, job: str
) -> None:
    newest = online("jobs", "list", "--limit", "1", "--json").document["id"]
    assert online("jobs", "show", "latest", "--json").document["id"] == newest
    assert online("jobs", "show", job[-12:].lower(), "--json").document["id"] == job
    assert online("jobs", "show", job[:-1], "--json").document["id"] == job
    several = online("results", "top", newest[:8])
    if several.code:  # unless it is the only job
        assert "; give more of it" in several.err


def test_data_in_use_go_with_the_jobs_that_use_them_where_that_is_said(
    online: Upweight, registered: tuple[str, ...], files: Path
) -> None:
    arrays = [str(files / "x.npy"), str(files / "y.npy")]
    assert online("datasets", "register", "cli-going", *arrays).code == 0
    given = ("--model", "cli-net", "--train", "cli-going", "--test", "cli-going", *LAMBDA)
    assert online("jobs", "submit", *given, "--wait").code == 0
    refused = online("datasets", "delete", "cli-going")
    assert refused.code == Exit.FAILED
    assert "or: upweight datasets delete cli-going --with-jobs" in refused.err
    assert online("datasets", "delete", "cli-going", "--with-jobs").code == 0
    assert online("datasets", "show", "cli-going").code == Exit.NOT_FOUND


def test_lists_for_programs_are_a_document_a_line(online: Upweight, job: str) -> None:
    found = online("jobs", "list", "--label", "by=cli", "--json", "--limit", "0").documents
    assert job in [each["id"] for each in found]
    assert online("jobs", "list", "--label", "by=nobody", "--json").out == ""


def test_a_submitted_job_prints_its_id_and_is_watched_to_its_end(
    online: Upweight, registered: tuple[str, ...]
) -> None:
    submitted = online("jobs", "submit", *registered, *LAMBDA, "--test-rows", "0:2")
    assert submitted.out.startswith("job_")
    watched = online("jobs", "watch", submitted.out.strip())
    assert watched.code == 0
    assert "succeeded" in watched.err.splitlines()[-1]
    states = [each["state"] for each in online("jobs", "watch", submitted.out.strip(), "--json").documents]  # fmt: skip
    assert states[-1] == "succeeded"


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_every_method_is_chosen_by_its_name(
    online: Upweight, registered: tuple[str, ...], row: Row
) -> None:
    chosen = ["--method", row.name, *LAMBDA, "--test-rows", "0:2", "--wait", "--json"]
    for name, value in row.quick.items():
        chosen += ["--set", f"{name}={json.dumps(value)}"]
    ended = online("jobs", "submit", *registered, *chosen)
    assert ended.code == 0
    assert ended.documents[-1]["request"]["inversion"].items() >= row.inversion(row.quick).items()
    assert row.name in online("jobs", "submit", "--help").out


def test_options_go_before_what_the_json_says(
    online: Upweight, registered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {
        "model": "cli-net", "train": {"dataset": "cli-rows"},
        "test": {"dataset": "cli-rows", "rows": "0:3"}, "hessian_regularization": 1,
        "inversion": {"method": "cg", "rtol": 1e-3}, "keep": {"matrix": True},
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", StringIO(json.dumps(document)))
    shown = online("jobs", "submit", "-", "--test-rows", "3:5", "--set", "maxiter=50", "--dry-run")
    assert shown.document["test"] == {"dataset": "cli-rows", "rows": "3:5"}
    assert shown.document["inversion"] == {"method": "cg", "rtol": 1e-3, "maxiter": 50}
    ended = online("jobs", "submit", json.dumps(document), "--method", "direct", "--wait", "--json")
    assert ended.documents[-1]["request"]["inversion"]["method"] == "direct"


def test_a_curvature_is_a_kind_with_or_without_its_structure(
    online: Upweight, registered: tuple[str, ...]
) -> None:
    given = {
        "fisher": {"kind": "fisher"},
        "gauss_newton:full": {"kind": "gauss_newton", "structure": "full"},
        '{"kind": "empirical_fisher"}': {"kind": "empirical_fisher"},
    }
    for text, asked in given.items():
        shown = online("jobs", "submit", *registered, "--curvature", text, "--dry-run")
        assert shown.document["curvature"] == asked
    asked_for = (*registered, *LAMBDA, "--curvature", "fisher", "--wait", "--json")
    ended = online("jobs", "submit", *asked_for)
    assert ended.code == 0, ended.err
    job = ended.documents[-1]
    assert job["request"]["curvature"] == {"kind": "fisher", "structure": "full"}
    assert "Fisher" in online("jobs", "show", job["id"]).out


def test_how_columns_met_the_models_inputs_is_shown(
    online: Upweight, registered: tuple[str, ...], job: str
) -> None:
    assert "by place: the model has one input" in online("jobs", "show", job).out
    asked = online("jobs", "submit", *registered, "--column", "input=x", "--dry-run").document
    assert asked["columns"] == {"input": "x"}


def test_a_job_that_goes_by_ids_is_shown_with_names(
    online: Upweight, registered: tuple[str, ...]
) -> None:
    ids = {
        each: online(each, "show", name, "--json").document["id"]
        for each, name in (("models", "cli-net"), ("datasets", "cli-rows"))
    }
    data = ids["datasets"]
    by_ids = ("--model", ids["models"], "--train", data, "--test", data, "--test-rows", "0:2")
    job = online("jobs", "submit", *by_ids, *LAMBDA, "--label", "by=ids", "--wait").out.split()
    (line,) = online("jobs", "list", "--label", "by=ids").out.splitlines()[1:]
    assert line.split()[3:5] == ["cli-net@1", "cli-rows@1"]
    shown = online("jobs", "show", line.split()[0]).out
    assert f"cli-net@1 ({ids['models']})" in shown
    assert f"cli-rows@1 ({data}) [0:2]" in shown
    assert line.split()[0] in job


def test_sets_of_rows_are_removed_together(
    online: Upweight, registered: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "rows").write_text("20\n21\n")
    sets = ("--groups", "0:10", "--groups", "3,17", "--groups", str(tmp_path / "rows"))
    asked = (*registered, *LAMBDA, *sets, "--test-rows", "0:4")
    job = online("jobs", "submit", *asked, "--wait", "--json").documents[-1]["id"]
    sums = online("results", "slice", job, "--json").document
    assert sums["shape"] == [4, 3]
    rescaled = online("results", "slice", job, "--array", "rescaled", "--json").document
    assert rescaled["values"] != sums["values"]
    plain = online("jobs", "submit", *asked, "--no-rescale", "--wait", "--json").documents[-1]["id"]
    refused = online("results", "slice", plain, "--array", "rescaled")
    assert refused.code == Exit.NOT_FOUND
    assert "leave rescale on" in refused.err


def test_losses_and_predictions_of_rows_are_shown(online: Upweight, job: str) -> None:
    worst = online("results", "rows", job, "--sort", "-loss", "--limit", "3", "--json").documents
    losses = [each["loss"] for each in worst]
    every = online("results", "rows", job, "--json").documents
    assert losses == sorted((each["loss"] for each in every), reverse=True)[:3]
    lines = online("results", "rows", job, "--rows", "2,0").out.splitlines()
    assert lines[0].split() == ["POSITION", "ROW", "ID", "LOSS", "ERROR", "PREDICTED", "TARGET"]
    assert [line.split()[:2] for line in lines[1:]] == [["2", "7"], ["0", "5"]]


def test_files_are_stored_and_fetched_by_their_digest(online: Upweight, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"some bytes of the command's")
    digest = online("blobs", "put", str(tmp_path / "a")).out.strip()
    assert online("blobs", "show", digest, "--json").document["size_bytes"] == 27
    assert online("blobs", "download", digest, str(tmp_path / "b")).code == 0
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    absent = online("blobs", "show", f"sha256:{'0' * 64}")
    assert absent.code == Exit.NOT_FOUND
    assert "is not stored" in absent.err


def test_right_hand_sides_are_uploaded_from_a_file(
    online: Upweight, registered: tuple[str, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "b.npy", np.ones((2, 10), np.float32))
    ended = online(
        "jobs", "submit", "--kind", "ihvp", *registered[:4], "--rhs", str(tmp_path / "b.npy"),
        *LAMBDA, "--wait", "--json",
    )  # fmt: skip
    assert ended.documents[-1]["result"]["factor_shape"] == [2, 10]


def test_gradients_and_products_are_computed_and_saved(
    online: Upweight, registered: tuple[str, ...], tmp_path: Path
) -> None:
    ended = online(
        "jobs", "submit", "--kind", "gradients", *registered[:4], "--train-rows", "0:3",
        "--parameters", "*bias", "--wait", "--json",
    ).documents[-1]  # fmt: skip
    assert ended["result"]["factor_shape"] == [3, 2]
    assert online("results", "save", ended["id"], str(tmp_path / "g.npy")).code == 0
    assert np.load(tmp_path / "g.npy").shape == (3, 2)
    np.save(tmp_path / "v.npy", np.ones((2, 10), np.float32))
    shown = online(
        "jobs", "submit", "--kind", "hvp", *registered[:4], "--vectors", str(tmp_path / "v.npy"),
        *LAMBDA, "--wait",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert "products" in shown.out


def test_a_job_that_fails_ends_with_1_and_says_why(
    online: Upweight, registered: tuple[str, ...]
) -> None:
    growing = (*LAMBDA, "--method", "lissa", "--set", "scale=1e-3")
    ended = online("jobs", "submit", *registered, *growing, "--test-rows", "0:1", "--wait")
    assert ended.code == Exit.FAILED
    assert "try scale = " in ended.err.splitlines()[-1]
    again = online("jobs", "retry", ended.out.split()[1], "--wait")
    assert again.code == Exit.FAILED
    gone = online("jobs", "delete", ended.out.split()[1])
    assert gone.code == 0, gone.err


def test_a_slice_is_that_of_the_saved_matrix(online: Upweight, job: str, tmp_path: Path) -> None:
    saved = online("results", "save", job, str(tmp_path / "m.npy"))
    assert saved.out.strip() == str(tmp_path / "m.npy")
    matrix = np.load(tmp_path / "m.npy")
    assert matrix.shape == (7, 30)
    printed = online("results", "slice", job, "--test", "4,1:3", "--train", "::10")
    read = pd.read_csv(StringIO(printed.out), sep="\t", index_col=0)
    assert (read.index.tolist(), read.columns.tolist()) == ([4, 1, 2], ["0", "10", "20"])
    np.testing.assert_allclose(read, matrix[[4, 1, 2]][:, ::10], rtol=1e-6)
    document = online("results", "slice", job, "--test", "4,1", "--train", "0:2", "--json").document
    np.testing.assert_allclose(document["values"], matrix[[4, 1], :2], rtol=1e-6)
    online("results", "slice", job, "--test", "6", "-o", str(tmp_path / "row.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "row.npy"), matrix[6:])


@pytest.fixture
def called(online: Upweight, stack: Running, files: Path, registered: tuple[str, ...]) -> str:
    """A job on rows that have ids: of training rows 20 to 29, and test rows 4 to 6 without any ids."""
    x, y = np.load(files / "x.npy"), np.load(files / "y.npy")
    with Client(stack.url) as client:
        ids = [f"img {row}" for row in range(30)]
        train = client.datasets.register("cli-called", x=x, y=y, ids=ids)
        rows = {"train_rows": "20:30", "test_rows": "4:7"}
        job = client.compute_influences(
            "cli-net", train, "cli-rows", hessian_regularization=1.0, **rows
        )
    return job.id


def test_a_slice_says_which_rows_its_positions_are(online: Upweight, called: str) -> None:
    printed = online("results", "slice", called, "--test", "2,0", "--train", "1,7:9").out
    head, names, *lines = [line.split("\t") for line in printed.splitlines()]
    assert head == ["", "1", "7", "8"]
    assert names == ["", "img 21", "img 27", "img 28"]
    assert [line[0] for line in lines] == ["2", "0"]
    document = online(
        "results", "slice", called, "--test", "2,0", "--train", "1,7:9", "--json"
    ).document
    assert document["axes"] == [[2, 0], [1, 7, 8]]
    assert document["labels"] == [None, ["img 21", "img 27", "img 28"]]
    read = pd.read_csv(StringIO(printed), sep="\t", header=[0, 1], index_col=0)
    np.testing.assert_allclose(read, document["values"], rtol=1e-6)
    scattered = ",".join(map(str, range(0, 10, 2)))
    every = online("results", "slice", called, "--train", scattered, "--json").document["labels"]
    assert every == [None, [f"img {row}" for row in range(20, 30, 2)]]


def test_a_slice_of_groups_says_which_they_are(
    online: Upweight, stack: Running, called: str
) -> None:
    with Client(stack.url) as client:
        job = client.compute_influences(
            "cli-net", "cli-rows", "cli-called", hessian_regularization=1.0,
            aggregate={"train": "y"}, test_rows="2:4",
        )  # fmt: skip
    lines = [line.split("\t") for line in online("results", "slice", job.id).out.splitlines()]
    assert [line[:4] for line in lines[:2]] == [["", "", "0", "1"], ["", "", "0", "1"]]
    assert [line[:2] for line in lines[2:]] == [["0", "img 2"], ["1", "img 3"]]


def test_a_ranking_says_ids_where_there_are_some(
    online: Upweight, called: str, job: str, stack: Running
) -> None:
    items = online("results", "top", called, "-k", "3", "--json").document["items"]
    head, *lines = online("results", "top", called, "-k", "3").out.splitlines()
    assert head.split() == ["ROW", "ID", "INFLUENCE"]
    assert [line.split()[:3] for line in lines] == [
        [str(item["row"]), "img", str(item["row"])] for item in items
    ]
    assert online("results", "top", job, "-k", "3").out.split()[:2] == ["ROW", "INFLUENCE"]
    with Client(stack.url) as client:
        shown = repr(client.jobs.result(called).top(None, 1))
    assert f": img {items[0]['row']} (row {items[0]['row']}, +" in shown


def test_a_slice_too_large_for_its_place_names_the_way_out(
    online: Upweight, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upweight.cli.slices.JSON_NUMBERS", 100)
    refused = online("results", "slice", job, "--json")
    assert refused.code == Exit.USAGE
    assert "-o part.npy" in refused.err


def test_the_ranking_is_that_of_the_matrix(online: Upweight, job: str) -> None:
    whole = online("results", "slice", job, "--json").document
    order = np.argsort(np.array(whole["values"])[2])
    top = online("results", "top", job, "--test", "2", "-k", "3", "--sign", "harmful", "--json")
    assert [item["column"] for item in top.document["items"]] == order[:3].tolist()
    table = online("results", "top", job, "--test", "2", "-k", "3", "--sign", "harmful").out
    assert [int(line.split()[0]) for line in table.splitlines()[1:]] == order[:3].tolist()


def test_info_shows_numbers_and_arrays(online: Upweight, registered: tuple[str, ...]) -> None:
    job = online(
        "jobs", "submit", *registered, *LAMBDA, "--method", "cg", "--test-rows", "0:3", "--wait", "--json"
    ).documents[-1]["id"]  # fmt: skip
    shown = online("results", "info", job)
    assert "right_hand_sides" in shown.out
    name = online("results", "info", job, "--json").document["arrays"][0]["name"]
    assert len(online("results", "info", job, "--array", name).out.splitlines()) == 3
    unknown = online("results", "info", job, "--array", "spectrum")
    assert unknown.code == Exit.USAGE
    assert name in unknown.err
    assert "manifest.json" in online("results", "files", job).out


def test_on_a_terminal_tables_are_drawn(stack: Running, online: Upweight, job: str) -> None:
    main, side = pty.openpty()
    environment = {"UPWEIGHT_URL": stack.url, "TERM": "xterm"}
    with process("jobs", "list", "--limit", "1", stdout=side, environment=environment) as command:
        assert command.wait(PATIENCE) == 0
    os.close(side)
    drawn = os.read(main, 100_000).decode()
    os.close(main)
    assert "\x1b[" in drawn
    assert "━" in drawn or "─" in drawn


def test_piped_output_has_no_colour_and_a_closed_pipe_is_quiet(
    stack: Running, online: Upweight, job: str
) -> None:
    env = os.environ | {"UPWEIGHT_URL": stack.url, "FORCE_COLOR": "1", "COLUMNS": "20"}
    line = f"{sys.executable} -m upweight.cli results slice {job}; echo ${{?}} >&2"
    script = ["bash", "-c", f"({line}) | head -c 5"]
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr in ("141\n", "0\n")  # 0: the reader left after all was written
    with process("jobs", "list", "--limit", "1", environment=env) as command:
        out, _ = command.communicate(timeout=PATIENCE)
    assert "\x1b[" not in out
    assert len(out.splitlines()) == 2


def test_ctrl_c_ends_watching_and_not_the_job(
    stack: Running, online: Upweight, registered: tuple[str, ...]
) -> None:
    stopped = stack.send("worker-1", signal.SIGSTOP)
    try:
        job = online("jobs", "submit", *registered, *LAMBDA, "--test-rows", "0:9").out.strip()
        with process("jobs", "watch", job, environment={"UPWEIGHT_URL": stack.url}) as command:
            assert command.stderr is not None
            assert job in command.stderr.readline()
            command.send_signal(signal.SIGINT)
            assert command.wait(PATIENCE) == Exit.INTERRUPTED
            assert command.stderr.read() == (
                f"\nno longer watched, the job goes on: upweight jobs watch {job}\n"
            )
        assert online("jobs", "cancel", job).out.split()[1] in ("cancelled", "cancelling")
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_the_secret_of_webhooks_is_shown_and_changed(online: Upweight) -> None:
    before = online("webhooks", "secret").out
    assert before.startswith("whsec_")
    changed = online("webhooks", "rotate", "--json").document["secret"]
    assert changed != before.strip()
    assert online("webhooks", "secret").out == f"{changed}\n"


def test_deliveries_are_those_of_the_jobs_webhook(
    online: Upweight, registered: tuple[str, ...], job: str
) -> None:
    url = "https://hooks.example.org/upweight"
    asked = online("jobs", "submit", *registered, "--webhook", url, "--dry-run").document
    assert asked["webhook"] == {"url": url}
    assert "no deliveries" in online("jobs", "deliveries", job).err
    assert online("jobs", "deliveries", job, "--json").documents == []
