"""Models and datasets: what is refused at once, what is recorded, how they are found, waited for and deleted."""

from __future__ import annotations

import os
import pickle
import threading
import time
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.service.acting import Acting, archive, digest_of, field, problem

SAFETENSORS_OF_640_BYTES_HEADER = b"\x80\x02" + bytes(6) + b"{" + bytes(100)
KINDS = ("models", "datasets")


def request_of(acting: Acting, kind: str, name: str = "thing", **values: Any) -> dict[str, Any]:
    make = acting.model_request if kind == "models" else acting.dataset_request
    return make(name, **values)


def test_a_model_is_recorded_and_given_to_a_worker(acting: Acting) -> None:
    answer = acting.post("/v1/models", acting.model_request("net", labels={"team": "vision"}))
    assert answer.status_code == 202
    record = answer.json()
    assert answer.headers["location"] == f"/v1/models/{record['id']}"
    assert record["state"] == "checking"
    assert record["version"] == 1
    assert record["size_bytes"] > 0
    assert record["digest"].startswith("sha256:")
    assert acting.parts.queue.lengths()["high"] == 1
    assert acting.client.get("/v1/models/net").json() == {**record, "used_by": []}


def test_a_dataset_is_recorded_and_given_to_a_worker(acting: Acting) -> None:
    answer = acting.post("/v1/datasets", acting.dataset_request("data"))
    assert answer.status_code == 202
    assert answer.json()["state"] == "checking"
    assert acting.parts.queue.lengths()["high"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_registered_again_is_its_next_version(acting: Acting, kind: str) -> None:
    first = acting.post(f"/v1/{kind}", request_of(acting, kind)).json()
    second = acting.post(f"/v1/{kind}", request_of(acting, kind)).json()
    assert (first["version"], second["version"]) == (1, 2)
    assert acting.client.get(f"/v1/{kind}/thing").json()["id"] == second["id"]
    assert acting.client.get(f"/v1/{kind}/thing@1").json()["id"] == first["id"]
    assert acting.client.get(f"/v1/{kind}/{first['id']}").json()["version"] == 1
    problem(acting.client.get(f"/v1/{kind}/thing@3"), 404, "not-found")


def test_the_digest_tells_what_decides_results_and_nothing_else(acting: Acting) -> None:
    request = acting.model_request("a")
    one = acting.post("/v1/models", request).json()
    renamed = acting.post("/v1/models", {**request, "name": "b", "labels": {"x": "y"}}).json()
    other = acting.post("/v1/models", {**request, "loss": "mse"}).json()
    assert one["digest"] == renamed["digest"] != other["digest"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_idempotency_key_makes_one_thing(acting: Acting, kind: str) -> None:
    request = request_of(acting, kind)
    first = acting.post(f"/v1/{kind}", request, **{"Idempotency-Key": "once"})
    again = acting.post(f"/v1/{kind}", request, **{"Idempotency-Key": "once"})
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert acting.parts.queue.lengths()["high"] == 1
    other = acting.post(f"/v1/{kind}", {**request, "name": "no"}, **{"Idempotency-Key": "once"})
    problem(other, 422, "idempotency-conflict")


def test_a_pickle_is_refused_with_the_line_that_exports_the_model(acting: Acting) -> None:
    for data in (pickle.dumps({"w": 1}), archive("net/data.pkl")):
        program = {"format": "pt2", "blob": acting.upload(data)}
        answer = acting.post("/v1/models", acting.model_request(program=program))
        problem(answer, 422, "invalid-request")
        assert "pickle" in field(answer, "/program/blob")
        assert "torch.export.save(torch.export.export(" in field(answer, "/program/blob")


def test_a_truncated_pt2_is_refused(acting: Acting) -> None:
    program = {"format": "pt2", "blob": acting.upload(archive()[:-30])}
    answer = acting.post("/v1/models", acting.model_request(program=program))
    assert "cut short" in field(answer, "/program/blob")


def test_what_is_no_archive_at_all_is_refused(acting: Acting) -> None:
    for data in (b"", b"hello", bytes(100)):
        program = {"format": "pt2", "blob": acting.upload(data)}
        answer = acting.post("/v1/models", acting.model_request(program=program))
        assert "no pt2 archive" in field(answer, "/program/blob")


def test_a_pickle_by_its_format_is_refused_before_any_upload(acting: Acting) -> None:
    body = {"name": "net", "loss": "mse", "program": {"format": "torchscript", "blob": "x"}}
    answer = acting.post("/v1/models", body)
    assert "never accepted; export the model instead" in field(answer, "/program")


def test_a_blob_that_is_not_there_is_named(acting: Acting) -> None:
    absent = digest_of(os.urandom(8))
    answer = acting.post(
        "/v1/models", acting.model_request(program={"format": "pt2", "blob": absent})
    )
    problem(answer, 422, "invalid-request")
    assert f"PUT /v1/blobs/{absent}" in field(answer, "/program/blob")
    blobs = [*acting.dataset_request()["blobs"], absent]
    answer = acting.post("/v1/datasets", acting.dataset_request(blobs=blobs))
    assert "upload it first" in field(answer, "/blobs/1")


def test_a_factory_that_is_not_allowed_is_refused_naming_those_that_are(acting: Acting) -> None:
    program = {"format": "factory", "factory": "os:system", "weights": digest_of(b"")}
    answer = acting.post("/v1/models", acting.model_request(program=program))
    problem(answer, 422, "invalid-request")
    assert "torchvision.models:resnet18" in field(answer, "/program/factory")


def test_weights_that_are_a_pickle_are_refused(acting: Acting) -> None:
    def factory(data: bytes) -> httpx2.Response:
        program = {
            "format": "factory",
            "factory": "torchvision.models:resnet18",
            "weights": acting.upload(data),
        }
        return acting.post("/v1/models", acting.model_request(program=program))

    assert "safetensors.torch.save_file" in field(factory(pickle.dumps(1)), "/program/weights")
    assert factory(SAFETENSORS_OF_640_BYTES_HEADER).status_code == 202


def test_a_hugging_face_model_is_refused_where_its_type_is_not_allowed(acting: Acting) -> None:
    hugging = {"format": "huggingface", "config": {"model_type": "bert"}, "weights": digest_of(b"")}
    answer = acting.post("/v1/models", acting.model_request(program=hugging))
    assert "UPWEIGHT_HUGGINGFACE" in field(answer, "/program/config/model_type")


def test_a_shard_of_another_format_is_refused_with_the_line_that_writes_it(acting: Acting) -> None:
    blobs = [acting.upload(pickle.dumps([1]))]
    answer = acting.post("/v1/datasets", acting.dataset_request(format="npz", blobs=blobs))
    assert "a pickle, which is never loaded" in field(answer, "/blobs/0")
    assert "numpy.savez" in field(answer, "/blobs/0")
    answer = acting.post("/v1/datasets", acting.dataset_request(blobs=blobs))
    assert "safetensors.numpy.save_file" in field(answer, "/blobs/0")


def test_a_dataset_needs_one_source(acting: Acting) -> None:
    answer = acting.post("/v1/datasets", {"name": "d", "format": "npz"})
    assert "give either 'blobs'" in field(answer, "")


IMAGE: dict[str, Any] = {"kind": "image", "column": "x"}
TABLE: dict[str, Any] = {"kind": "table", "column": "x"}


@pytest.mark.parametrize(
    ("given", "pointer", "words"),
    [
        (
            {"class_names": ["cat", "dog", "cat"]},
            "/class_names",
            "classes 0 and 2 are both named 'cat'; give each a name of its own",
        ),
        ({"preview": {**IMAGE, "shape": [8, 0]}}, "/preview/shape", "must be at least 1"),
        ({"preview": {**IMAGE, "shape": [8, -8]}}, "/preview/shape", "must be at least 1"),
        (
            {"preview": {**IMAGE, "minimum": 2}},
            "/preview/maximum",
            "must be above minimum=2, which is drawn black; it is 1",
        ),
        ({"preview": {**IMAGE, "column": "X"}}, "/preview/column", "no input or target 'X'"),
        ({"preview": {**TABLE, "names": ["a", "b", "a"]}}, "/preview/names", "'a' is there twice"),
        (
            {"preview": {"kind": "text", "column": "x", "vocabulary": f"sha256:{'7' * 64}"}},
            "/preview/vocabulary",
            f"no such blob here; upload a JSON list of words first: PUT /v1/blobs/sha256:{'7' * 64}",
        ),
        ({"features": {"x": ["a", "b", "a"]}}, "", "names 'a' twice"),
    ],
)
def test_what_is_wrong_with_how_rows_are_shown_is_said_when_it_is_registered(
    acting: Acting, given: Any, pointer: str, words: str
) -> None:
    answer = acting.post("/v1/datasets", acting.dataset_request(**given))
    problem(answer, 422, "invalid-request")
    assert words in field(answer, pointer)
    assert acting.client.get("/v1/datasets").json()["items"] == []


def test_how_rows_are_shown_is_changed_once_their_columns_are_known(acting: Acting) -> None:
    made = acting.post("/v1/datasets", acting.dataset_request()).json()
    preview = {"preview": {**IMAGE, "shape": [3, 3]}}
    path = f"/v1/datasets/{made['id']}"
    said = problem(acting.client.patch(path, json=preview), 409, "not-ready")["detail"]
    assert f"GET {path}?wait=60 holds until it is" in said
    columns = [{"name": "x", "dtype": "float32", "shape": [4]}]
    acting.change("dataset", made["id"], state="ready", rows=1, columns=columns)
    answer = acting.client.patch(path, json=preview)
    assert "with as many numbers" in field(answer, "/preview/shape")
    answer = acting.client.patch(path, json={"preview": {"kind": "text", "column": "x"}})
    assert "'x' is float32, and the tokens of a text" in field(answer, "/preview/kind")
    preview["preview"]["shape"] = [2, 2]
    assert acting.client.patch(path, json=preview).json()["preview"]["shape"] == [2, 2]


def test_words_of_a_column_that_has_no_tokens_are_refused(ready: Acting) -> None:
    job = ready.job(hessian_regularization=0.1)["id"]
    ready.succeed(job, matrix=np.ones((10, 50), np.float32))
    train = ready.client.get("/v1/datasets/train").json()["id"]
    # As datasets have it that were registered before previews were looked at.
    ready.change("dataset", train, preview={"kind": "text", "column": "x", "vocabulary": None})
    answer = ready.client.get(f"/v1/jobs/{job}/top", params={"words": True})
    said = problem(answer, 404, "not-stored")["detail"]
    assert "column 'x' of dataset 'train' is float32, and tokens are whole numbers" in said


def test_an_unknown_loss_and_format_name_those_that_are_known(acting: Acting) -> None:
    answer = acting.post("/v1/models", acting.model_request(loss="cross_entropie"))
    assert "did you mean 'cross_entropy'?" in field(answer, "/loss")
    answer = acting.post("/v1/models", acting.model_request(program={"format": "onnx"}))
    assert "allowed are 'pt2', 'factory', 'huggingface'" in field(answer, "/program/format")
    answer = acting.post("/v1/datasets", acting.dataset_request(format="csv"))
    assert "'safetensors', 'npz' or 'parquet'" in field(answer, "/format")
    answer = acting.post("/v1/models", acting.model_request(loss="l1"))
    assert "not twice differentiable" in field(answer, "/loss")


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_ends_when_the_check_does(acting: Acting, kind: str) -> None:
    made = acting.post(f"/v1/{kind}", request_of(acting, kind)).json()
    singular: Any = kind.removesuffix("s")

    def check() -> None:
        time.sleep(0.3)
        rejected = {"type": "rejected", "title": "t", "status": 422, "detail": "NaN in row 3"}
        acting.change(singular, made["id"], state="rejected", problem=rejected)

    thread = threading.Thread(target=check)
    thread.start()
    began = time.monotonic()
    answer = acting.client.get(f"/v1/{kind}/thing", params={"wait": 60})
    thread.join()
    assert answer.json()["state"] == "rejected"
    assert answer.json()["problem"]["detail"] == "NaN in row 3"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_narrowed_and_paged(acting: Acting, kind: str) -> None:
    ids = []
    for number in range(5):
        labels = {"parity": "odd" if number % 2 else "even"}
        body = request_of(acting, kind, f"n{number}", labels=labels)
        ids.append(acting.post(f"/v1/{kind}", body).json()["id"])

    def listed(**parameters: Any) -> Any:
        answer = acting.client.get(f"/v1/{kind}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    first = listed(limit=2)
    assert [item["id"] for item in first["items"]] == [ids[4], ids[3]]
    assert first["has_more"]
    second = listed(limit=2, after=first["next_after"])
    assert [item["id"] for item in second["items"]] == [ids[2], ids[1]]
    last = listed(limit=2, after=second["next_after"])
    assert [item["id"] for item in last["items"]] == [ids[0]]
    assert (last["has_more"], last["next_after"]) == (False, None)
    assert [item["id"] for item in listed(order="asc")["items"]] == ids
    assert len(listed(label="parity=odd")["items"]) == 2
    assert len(listed(name="n3")["items"]) == 1
    assert len(listed(state="checking")["items"]) == 5
    assert listed(state="ready")["items"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_bad_questions_to_a_list_are_refused_by_name(acting: Acting, kind: str) -> None:
    for parameters, pointer in (
        ({"limit": 0}, "query:limit"),
        ({"after": "x"}, "query:after"),
        ({"state": "done"}, "query:state"),
        ({"label": "team"}, "query:label"),
        ({"order": "up"}, "query:order"),
    ):
        answer = acting.client.get(f"/v1/{kind}", params=parameters)
        problem(answer, 422, "invalid-request")
        assert field(answer, pointer)


def test_what_a_job_holds_can_not_be_deleted_until_the_job_is(acting: Acting) -> None:
    acting.ready()
    job = acting.job()
    for path in ("/v1/models/net", "/v1/datasets/train", "/v1/datasets/test"):
        assert job["id"] in problem(acting.client.delete(path), 409, "in-use")["detail"]
        assert acting.client.get(path).json()["used_by"] == [job["id"]]
    acting.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert acting.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    for path in ("/v1/models/net", "/v1/datasets/train", "/v1/datasets/test"):
        assert acting.client.delete(path).status_code == 204
        problem(acting.client.get(path), 404, "not-found")
