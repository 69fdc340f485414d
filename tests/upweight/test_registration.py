"""Models and datasets: uploaded, registered, waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import nn

from tests.upweight import records
from tests.upweight.conftest import posted
from tests.upweight.local_server import Asked, Handler, Server, answer, problem
from upweight import Client, WaitTimedOut, errors
from upweight.client.intake import stream

X = np.random.default_rng(0).random((10, 3), dtype=np.float32)
Y = np.arange(10) % 3


def test_arrays_become_a_dataset_with_y_as_its_target(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    record = client.datasets.register(
        "digits-train", x=X, y=torch.tensor(Y), class_names=["a", "b", "c"]
    )
    assert record.id == records.DATASET
    request = posted(server)
    assert (request["inputs"], request["targets"]) == (["x"], ["y"])
    assert request["class_names"] == ["a", "b", "c"]
    (content,) = blobs.values()
    np.testing.assert_array_equal(load(content)["x"], X)
    np.testing.assert_array_equal(load(content)["y"], Y)


@pytest.mark.parametrize(
    ("given", "inputs", "targets"),
    [
        ({}, ["ids", "mask"], ["y"]),
        ({"targets": ["mask", "y"]}, ["ids"], ["mask", "y"]),
        ({"targets": "mask", "inputs": ["ids", "y"]}, ["ids", "y"], ["mask"]),
        ({"targets": [], "inputs": ["ids", "mask", "y"]}, ["ids", "mask", "y"], []),
        ({"inputs": ["mask", "ids"]}, ["mask", "ids"], ["y"]),
    ],
)
def test_inputs_and_targets_are_as_said(
    server: Server,
    client: Client,
    blobs: dict[str, bytes],
    given: Any,
    inputs: list[str],
    targets: list[str],
) -> None:
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    client.datasets.register("d", ids=X, mask=X, y=Y, **given)
    assert (posted(server)["inputs"], posted(server)["targets"]) == (inputs, targets)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs columns"),
        ({"x": X, "y": Y[:5]}, "same number of rows"),
        ({"x": X, "y": 3}, "single number"),
        ({"x": X[:0]}, "no rows"),
        ({"x": X, "y": Y, "targets": ["z"]}, "no column 'z'"),
        ({"x": X, "extra": Y, "inputs": ["x"]}, "'extra' is neither"),
        ({"x": X, "preview": {"kind": "video"}}, "/preview"),
        (
            {"x": X, "preview": "image"},
            '/preview: .*such as {"kind": "image", "column": "x", "shape"',
        ),
        (
            {"x": X, "preview": {"kind": "image"}},
            "/preview/column: is missing. The input or target",
        ),
        ({"x": X, "y": Y, "class_names": ["a", "b", "a"]}, "classes 0 and 2 are both named 'a'"),
        ({"x": X, "y": Y, "class_names": "abc"}, "a text is no list of names; write class_names="),
        (
            {"x": X, "y": Y, "class_name": ["a", "b"]},
            r"'class_name', .* did you mean 'class_names'",
        ),
        ({"x": X, "y": Y, "preveiw": {"kind": "image"}}, r"'preveiw', .* did you mean 'preview'"),
        ({"x": X, "tokenizer": "no/such.json"}, r"there is no file 'no/such\.json'"),
    ],
)
def test_mistakes_in_columns_are_told_before_anything_is_sent(
    server: Server, client: Client, arguments: Any, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        client.datasets.register("d", **arguments)
    assert server.asked == []


def test_a_column_may_have_the_name_of_a_keyword(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    client.datasets.register("d", {"labels": Y, "x": X}, targets="labels")
    assert posted(server)["targets"] == ["labels"]


def test_a_target_of_words_may_nearly_have_the_name_of_a_keyword(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    words, names = ["b", "a", *["a"] * (len(X) - 2)], ["a", "b"]
    client.datasets.register("d", label=words, x=X, targets="label", class_names=names)
    assert posted(server)["targets"] == ["label"]


def test_a_large_dataset_becomes_shards_in_order(
    server: Server, client: Client, blobs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHARD", 80)
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    client.datasets.register("d", x=X, y=Y)
    shards = [load(blobs[digest])["y"] for digest in posted(server)["blobs"]]
    assert [len(shard) for shard in shards] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(shards), Y)


def test_files_are_shards_and_their_names_tell_the_format(
    server: Server, client: Client, blobs: dict[str, bytes], tmp_path: Path
) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        np.savez(path, x=X, y=Y, name=np.array([str(path.name)]))
    server.on("POST", "/v1/datasets", answer(202, records.dataset()))
    client.datasets.register("d", paths)
    assert posted(server)["format"] == "npz"
    assert [blobs[digest] for digest in posted(server)["blobs"]] == [p.read_bytes() for p in paths]


def test_files_of_unknown_format_are_refused_with_the_choices(client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="parquet"):
        client.datasets.register("d", ["rows.csv"])


def test_a_live_module_is_exported_uploaded_and_waited_for(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/models", answer(202, records.model("checking")))
    path = f"/v1/models/{records.MODEL}"
    server.on("GET", path, answer(200, records.model("checking")), answer(200, records.model()))
    record = client.models.register(
        "linear",
        nn.Linear(3, 2),
        example=X[:1],
        loss={"name": "huber", "delta": 2.0},
        parameters="weight",
    )
    assert record.state == "ready"
    request = posted(server)
    assert request["parameters"] == ["weight"]
    loss = {"name": "huber", "delta": 2.0, "reduction": "mean", "l2": [], "row_weights": None}
    assert request["loss"] == loss
    assert blobs[request["program"]["blob"]].startswith(b"PK")
    assert ("wait", "15") in server.asked[
        -1
    ].query  # half the seconds that the client has for an answer


def test_a_factory_model_sends_its_weights_as_safetensors(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/models", answer(202, records.model()))
    weights = nn.Linear(3, 2).state_dict()
    client.models.register(
        "linear", factory="zoo:linear", kwargs={"width": 3}, weights=weights, loss="mse"
    )
    program = posted(server)["program"]
    assert (program["factory"], program["kwargs"]) == ("zoo:linear", {"width": 3})
    np.testing.assert_array_equal(load(blobs[program["weights"]])["weight"], weights["weight"])


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        (None, {}, "give one of"),
        ("net.pt", {}, "never accepted.*exports a live module"),
        (nn.Linear(3, 2), {}, "example=x"),
        (nn.Linear(3, 2), {"loss": "cross_entropi"}, "did you mean 'cross_entropy'"),
        (
            nn.Linear(3, 2),
            {"loss": nn.CTCLoss()},
            "CTCLoss is not among cross_entropy, bce_with_logits",
        ),
        (nn.Linear, {}, "Linear is a class.*give an instance"),
        (nn.Linear(3, 2), {"parameters": "wieght"}, "did you mean 'weight'"),
        (nn.Linear(3, 2), {"parameters": ["*", "fc.*"]}, r"no parameter matches 'fc\.\*'; .*bias"),
        (nn.ModuleDict({"body": nn.Linear(3, 2)}), {"parameters": "bodi.*"}, r"mean 'body\.\*'"),
        (None, {"factory": "zoo:linear"}, "'weights' is missing"),
        (None, {"factory": "no dots", "weights": records.DIGEST}, "/program"),
        (None, {"factory": "a:b", "weights": records.DIGEST, "loss": "l1"}, "huber"),
    ],
)
def test_mistakes_in_models_are_told_before_anything_is_registered(
    server: Server, client: Client, program: Any, arguments: Any, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        client.models.register("m", program, **{"loss": "mse", **arguments})
    assert server.asked == []


def test_a_rejected_model_raises_the_workers_reason(server: Server, client: Client) -> None:
    reason = {"type": "rejected", "title": "t", "status": 422, "detail": "aten.rand is random"}
    server.on("GET", "/v1/models/m", answer(200, records.model("rejected", problem=reason)))
    with pytest.raises(errors.Rejected, match=r"aten\.rand"):
        client.models.wait("m")


def test_waiting_ends_when_its_time_is_up(server: Server, client: Client) -> None:
    server.on("GET", "/v1/datasets/d", answer(200, records.dataset("checking")))
    server.on("GET", f"/v1/datasets/{records.DATASET}", answer(200, records.dataset("checking")))
    with pytest.raises(WaitTimedOut, match="still being checked"):
        client.datasets.wait("d", timeout=0.5)
    assert len(server.asked) < 6  # a service that does not hold its polls is not hammered


def test_records_stand_for_their_ids(server: Server, client: Client) -> None:
    def gone(handler: Handler, asked: Asked) -> None:
        answer(204)(handler, asked)

    server.on("GET", "/v1/models/digits-cnn@1", answer(200, records.model()))
    server.on("DELETE", f"/v1/models/{records.MODEL}", gone)
    client.models.delete(client.models.get("digits-cnn@1"))


def test_what_jobs_hold_is_deleted_with_them_where_that_is_said(
    server: Server, client: Client
) -> None:
    path, more = f"/v1/datasets/{records.DATASET}", records.JOB[:-1] + "1"
    server.on("DELETE", path, problem(409, "in-use", "job_1 uses it"), answer(204))
    for job in (records.JOB, more):
        server.on("DELETE", f"/v1/jobs/{job}", answer(204))
    # Of very many users an answer has the first ones.
    pages = ([records.JOB], [more], [])
    server.on("GET", path, *(answer(200, {**records.dataset(), "used_by": each}) for each in pages))
    with pytest.raises(errors.InUse, match="job_1 uses it, or give with_jobs=True"):
        client.datasets.delete(records.DATASET)
    assert client.datasets.delete(records.DATASET, with_jobs=True) == [records.JOB, more]


class Regressor:
    """As scikit-learn's estimators look from outside."""

    def get_params(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(
    ("program", "words"), [(Regressor(), "torch.nn.Linear"), (len, "pt2 file")]
)
def test_what_is_no_program_is_refused_by_its_class(
    client: Client, program: Any, words: str
) -> None:
    with pytest.raises(
        errors.InvalidRequest, match=r"is no program: give a torch\.nn\.Module"
    ) as caught:
        client.models.register("m", program, loss="mse", example=torch.zeros(2, 3))
    assert words in str(caught.value)
